//! Creates a sandbox, waits for it by watching, changes it, repairs it and deletes it. Prints a line for each step.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;
use uuid::Uuid;

use pb::watch_status_response::Event;
use pb::{Phase, Remedy, Sandbox, SandboxSpec, SandboxStatus};

mod pb {
    tonic::include_proto!("sandbox.v1");
}

type Client = pb::sandbox_service_client::SandboxServiceClient<Channel>;

/// Ends with exit code 3 while the variable BROKEN is set.
const COMMAND: [&str; 3] = ["/bin/sh", "-c", r#"test -z "$BROKEN" || exit 3; exec sleep 1000000"#];
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the service was not reached or not ready. tonic makes such an error itself when the connection is lost; then
/// it has a source, and any code.
fn lost(error: &Status) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Cancelled) || Error::source(error).is_some()
}

/// Makes a call and repeats it like protos/service_config.json, which tonic does not read. Safe because every mutation
/// has a request id.
async fn repeat<Q: Clone, A, F>(
    client: &Client,
    request: Q,
    send: impl Fn(Client, Request<Q>) -> F,
) -> Result<A, Status>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut delay = Duration::from_millis(100);
    loop {
        let mut request = Request::new(request.clone());
        request.set_timeout(Duration::from_secs(30));
        match send(client.clone(), request).await {
            Err(error) if lost(&error) && delay < Duration::from_secs(5) => sleep(delay).await,
            result => return result.map(Response::into_inner),
        }
        delay *= 2;
    }
}

/// Calls a method until it is answered, and returns the sandbox of the answer.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {
        repeat($client, $request, |mut client, request| async move { client.$method(request).await })
            .await
            .map(|answer| answer.sandbox.unwrap_or_default())
    };
}

/// The statuses of a sandbox, without a gap across lost connections. They begin with the current one without `after`.
/// With several sandboxes, resume only from snapshot_complete on.
struct Watch {
    client: Client,
    sandbox_id: String,
    after: Option<i64>,
    stream: Option<Streaming<pb::WatchStatusResponse>>,
}

impl Watch {
    fn new(client: &Client, sandbox_id: &str, after: Option<i64>) -> Self {
        Watch { client: client.clone(), sandbox_id: sandbox_id.into(), after, stream: None }
    }

    async fn message(&mut self) -> Result<Option<pb::WatchStatusResponse>, Status> {
        if self.stream.is_none() {
            let sandbox_ids = vec![self.sandbox_id.clone()];
            let request = pb::WatchStatusRequest { sandbox_ids, after_sequence: self.after, ..Default::default() };
            self.stream = Some(self.client.watch_status(request).await?.into_inner());
        }
        self.stream.as_mut().expect("it was opened").message().await
    }

    /// Returns the next status.
    async fn next(&mut self) -> Result<SandboxStatus, Status> {
        loop {
            match self.message().await {
                Ok(Some(message)) => {
                    self.after = Some(message.sequence);
                    if let Some(Event::Status(status)) = message.event {
                        return Ok(status);
                    }
                    continue;
                }
                Ok(None) => return Err(Status::not_found("the sandbox ended")),
                // The history is no longer kept: begin with the current status.
                Err(error) if error.code() == Code::OutOfRange => self.after = None,
                Err(error) if lost(&error) => sleep(Duration::from_millis(200)).await,
                Err(error) => return Err(error),
            }
            self.stream = None;
        }
    }
}

/// Makes a mutation of a sandbox, with a request id of its own.
macro_rules! mutation {
    ($kind:ident, $sandbox:expr $(, $field:ident: $value:expr)*) => {
        pb::$kind {
            request_id: Uuid::new_v4().to_string(),
            sandbox_id: $sandbox.sandbox_id.clone(),
            namespace: $sandbox.namespace.clone(),
            $($field: $value,)*
            ..Default::default()
        }
    };
}

/// Returns the status with which the sandbox has the phase, or the error that its caller has to remove. Prints it.
async fn wait(client: &Client, step: &str, sandbox: &Sandbox, phase: Phase) -> Result<SandboxStatus, Box<dyn Error>> {
    let generation = sandbox.status.as_ref().map_or(0, |status| status.generation);
    let mut watch = Watch::new(client, &sandbox.sandbox_id, None);
    let found = timeout(PATIENCE, async {
        loop {
            let status = watch.next().await?;
            // With another remedy the sandbox may recover by itself, so that waiting goes on.
            let failed = status.phase() == Phase::Error && status.remedy() == Remedy::Caller;
            let reached = status.phase() == phase || failed;
            if status.generation >= generation && reached {
                return Ok::<_, Status>(status);
            }
        }
    });
    let status = found.await??;
    report(step, &status);
    Ok(status)
}

fn report(step: &str, status: &SandboxStatus) {
    let mut words = vec![status.phase().as_str_name().into(), format!("generation {}", status.generation)];
    if status.phase() == Phase::Error {
        words.push(status.reason().as_str_name().into());
        words.push(status.remedy().as_str_name().into());
    }
    println!("{step}: {}", words.join(", "));
}

/// Prints what the details of an error say: its reason, bad fields, and the current generation.
fn explain(step: &str, error: &Status) {
    let code = match error.code() {
        Code::Aborted => "ABORTED".into(),
        Code::InvalidArgument => "INVALID_ARGUMENT".into(),
        other => format!("{other:?}"),
    };
    let mut words = vec![code];
    if let Some(info) = error.get_details_error_info() {
        words.push(info.reason);
        words.extend(info.metadata.get("generation").map(|generation| format!("generation {generation}")));
    }
    if let Some(request) = error.get_details_bad_request() {
        words.extend(request.field_violations.into_iter().map(|bad| bad.field));
    }
    println!("{step}: {}", words.join(", "));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = env::var("SANDBOX_SERVER").unwrap_or_else(|_| "127.0.0.1:50051".into());
    // A connection that went silent is noticed within 40 seconds.
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let client = Client::new(endpoint.connect_lazy());

    let command = COMMAND.map(String::from).into();
    let create = pb::CreateSandboxRequest {
        request_id: Uuid::new_v4().to_string(),
        spec: Some(SandboxSpec { project: "example".into(), command, ..Default::default() }),
        env: HashMap::from([("GREETING".into(), "hello".into())]),
        ..Default::default()
    };
    let sandbox = call!(&client, create_sandbox, create.clone())?;
    println!("create: generation {}", sandbox.status.as_ref().map_or(0, |status| status.generation));
    let again = call!(&client, create_sandbox, create)?;
    println!("repeat: {}", if again.uid == sandbox.uid { "the same sandbox" } else { "another sandbox" });
    let first = wait(&client, "wait", &sandbox, Phase::Running).await?;

    let set = HashMap::from([("GREETING".into(), "hi".into())]);
    let updated = call!(&client, update_env_vars, mutation!(UpdateEnvVarsRequest, sandbox, set: set))?;
    wait(&client, "env", &updated, Phase::Running).await?;
    let stopped = call!(&client, stop, mutation!(StopRequest, sandbox))?;
    wait(&client, "stop", &stopped, Phase::Stopped).await?;
    let started = call!(&client, start, mutation!(StartRequest, sandbox))?;
    let last = wait(&client, "start", &started, Phase::Running).await?;

    // A watch that begins where another one ended has every event since then.
    let mut watch = Watch::new(&client, &sandbox.sandbox_id, Some(first.sequence));
    let mut phases = vec![];
    loop {
        let status = watch.next().await?;
        phases.push(status.phase().as_str_name());
        if status.sequence >= last.sequence {
            break;
        }
    }
    phases.dedup();
    println!("resume: {}", phases.join(", "));

    if let Err(error) = call!(&client, stop, mutation!(StopRequest, sandbox, expected_generation: Some(1))) {
        explain("stale", &error);
    }
    let spec = Some(SandboxSpec { project: "No_Label".into(), ..Default::default() });
    let refused = pb::CreateSandboxRequest { request_id: Uuid::new_v4().to_string(), spec, ..Default::default() };
    if let Err(error) = call!(&client, create_sandbox, refused) {
        explain("refused", &error);
    }

    let set = HashMap::from([("BROKEN".into(), "yes".into())]);
    let broken = call!(&client, update_env_vars, mutation!(UpdateEnvVarsRequest, sandbox, set: set))?;
    wait(&client, "remedy", &broken, Phase::Running).await?;
    let unset = vec!["BROKEN".into()];
    let repaired = call!(&client, update_env_vars, mutation!(UpdateEnvVarsRequest, sandbox, unset: unset))?;
    wait(&client, "repair", &repaired, Phase::Running).await?;
    let deleted = call!(&client, delete, mutation!(DeleteRequest, sandbox))?;
    wait(&client, "delete", &deleted, Phase::Terminated).await?;
    Ok(())
}
