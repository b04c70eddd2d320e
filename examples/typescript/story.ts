// Creates a sandbox, waits for it by watching, changes it, repairs it and deletes it. Prints a line for each step.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

import type { ProtoGrpcType } from './gen/sandbox';
import type { Phase__Output } from './gen/sandbox/v1/Phase';
import type { Sandbox__Output } from './gen/sandbox/v1/Sandbox';
import type { SandboxStatus__Output } from './gen/sandbox/v1/SandboxStatus';
import type { UpdateEnvVarsRequest } from './gen/sandbox/v1/UpdateEnvVarsRequest';
import type { WatchStatusResponse__Output } from './gen/sandbox/v1/WatchStatusResponse';

const PROTOS = '../../protos';
// As in the script that generates the types. A sequence stays far below 2^53.
const OPTIONS = { enums: String, longs: Number, defaults: true, oneofs: true, includeDirs: [PROTOS, getProtoPath('..')] };
const contract = grpc.loadPackageDefinition(
  loader.loadSync('sandbox/v1/sandbox.proto', OPTIONS),
) as unknown as ProtoGrpcType;
const google = loader.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto'], OPTIONS);

// Ends with exit code 3 while the variable BROKEN is set.
const COMMAND = ['/bin/sh', '-c', 'test -z "$BROKEN" || exit 3; exec sleep 1000000'];
const PATIENCE = 60_000;

const client = new contract.sandbox.v1.SandboxService(
  process.env.SANDBOX_SERVER ?? '127.0.0.1:50051',
  grpc.credentials.createInsecure(),
  {
    // gRPC repeats calls on UNAVAILABLE and CANCELLED, which is safe because every mutation has a request id.
    'grpc.service_config': readFileSync(`${PROTOS}/service_config.json`, 'utf8'),
    // A connection that went silent is noticed within 40 seconds.
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
  },
);

/** Sends a mutation, and returns the sandbox of its answer. */
function mutate(
  send: (ready: grpc.Metadata, done: grpc.requestCallback<{ sandbox: Sandbox__Output | null }>) => unknown,
): Promise<Sandbox__Output> {
  // grpc-js does not read waitForReady in a service config.
  const ready = new grpc.Metadata({ waitForReady: true });
  return new Promise((resolve, reject) =>
    send(ready, (error, answer) => (answer?.sandbox ? resolve(answer.sandbox) : reject(error))),
  );
}

/**
 * Yields the statuses of a sandbox, without a gap across lost connections. Begins with the current one without `after`.
 * With several sandboxes, resume only from snapshotComplete on.
 */
async function* watch(sandboxId: string, after?: number): AsyncGenerator<SandboxStatus__Output> {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const stream = client.watchStatus({ sandboxIds: [sandboxId], afterSequence: after }, { deadline });
    stream.on('error', () => {}); // The loop throws it too, unless it has ended.
    try {
      for await (const message of stream as AsyncIterable<WatchStatusResponse__Output>) {
        after = message.sequence;
        if (message.status) yield message.status;
      }
      return;
    } catch (error) {
      const { code } = error as grpc.ServiceError;
      if (code === grpc.status.OUT_OF_RANGE) {
        after = undefined; // The history is no longer kept: begin with the current status.
      } else if (code === grpc.status.UNAVAILABLE || code === grpc.status.CANCELLED) {
        await sleep(200);
      } else {
        throw error;
      }
    } finally {
      stream.cancel();
    }
  }
}

/** Returns the status with which the sandbox has the phase, or the error that its caller has to remove. */
async function wait(sandbox: Sandbox__Output, phase: Phase__Output): Promise<SandboxStatus__Output> {
  for await (const status of watch(sandbox.sandboxId)) {
    if (status.generation < sandbox.status!.generation) continue; // From before the mutation.
    if (status.phase === phase) return status;
    // With another remedy the sandbox may recover by itself, so that waiting goes on.
    if (status.phase === 'PHASE_ERROR' && status.remedy === 'REMEDY_CALLER') return status;
  }
  throw new Error('the sandbox ended');
}

function report(step: string, status: SandboxStatus__Output): void {
  const words = [status.phase, `generation ${status.generation}`];
  if (status.phase === 'PHASE_ERROR') words.push(`${status.reason}`, `${status.remedy}`);
  console.log(`${step}: ${words.join(', ')}`);
}

/** Decodes one of Google's messages. */
function decode(name: string, bytes: Buffer): any {
  return (google[name] as loader.MessageTypeDefinition<object, object>).deserialize(bytes);
}

/** Prints what the details of an error say: its reason, bad fields, and the current generation. */
function explain(step: string, error: grpc.ServiceError): void {
  const words = [grpc.status[error.code]];
  const [bytes] = error.metadata.get('grpc-status-details-bin') as Buffer[];
  for (const { type_url, value } of decode('google.rpc.Status', bytes).details) {
    const name = type_url.split('/').pop();
    const detail = decode(name, value);
    if (name === 'google.rpc.ErrorInfo') {
      words.push(detail.reason);
      if (detail.metadata.generation) words.push(`generation ${detail.metadata.generation}`);
    } else if (name === 'google.rpc.BadRequest') {
      words.push(...detail.fieldViolations.map((bad: { field: string }) => bad.field));
    }
  }
  console.log(`${step}: ${words.join(', ')}`);
}

async function story(): Promise<void> {
  const create = {
    requestId: randomUUID(),
    spec: { project: 'example', command: COMMAND },
    env: { GREETING: 'hello' },
  };
  const sandbox = await mutate((ready, done) => client.createSandbox(create, ready, done));
  console.log(`create: generation ${sandbox.status!.generation}`);
  const again = await mutate((ready, done) => client.createSandbox(create, ready, done));
  console.log(`repeat: ${again.uid === sandbox.uid ? 'the same sandbox' : 'another sandbox'}`);
  const first = await wait(sandbox, 'PHASE_RUNNING');
  report('wait', first);

  const named = () => ({ requestId: randomUUID(), sandboxId: sandbox.sandboxId, namespace: sandbox.namespace });
  const update = async (step: string, change: UpdateEnvVarsRequest) => {
    const updated = await mutate((ready, done) => client.updateEnvVars({ ...named(), ...change }, ready, done));
    report(step, await wait(updated, 'PHASE_RUNNING'));
  };
  await update('env', { set: { GREETING: 'hi' } });
  const stopped = await mutate((ready, done) => client.stop(named(), ready, done));
  report('stop', await wait(stopped, 'PHASE_STOPPED'));
  const started = await mutate((ready, done) => client.start(named(), ready, done));
  const last = await wait(started, 'PHASE_RUNNING');
  report('start', last);

  // A watch that begins where another one ended has every event since then.
  const phases: string[] = [];
  for await (const { phase, sequence } of watch(sandbox.sandboxId, first.sequence)) {
    if (phases.at(-1) !== phase) phases.push(`${phase}`);
    if (sequence >= last.sequence) break;
  }
  console.log(`resume: ${phases.join(', ')}`);

  const stale = { ...named(), expectedGeneration: 1 };
  await mutate((ready, done) => client.stop(stale, ready, done)).catch((error) => explain('stale', error));
  const refused = { requestId: randomUUID(), spec: { project: 'No_Label' } };
  await mutate((ready, done) => client.createSandbox(refused, ready, done)).catch((error) => explain('refused', error));

  await update('remedy', { set: { BROKEN: 'yes' } });
  await update('repair', { unset: ['BROKEN'] });
  const deleted = await mutate((ready, done) => client.delete(named(), ready, done));
  report('delete', await wait(deleted, 'PHASE_TERMINATED'));
}

story()
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  .finally(() => client.close());
