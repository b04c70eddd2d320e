package example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.fullstackagent.sandbox.v1.CreateSandboxRequest;
import io.fullstackagent.sandbox.v1.DeleteRequest;
import io.fullstackagent.sandbox.v1.Phase;
import io.fullstackagent.sandbox.v1.Remedy;
import io.fullstackagent.sandbox.v1.Sandbox;
import io.fullstackagent.sandbox.v1.SandboxServiceGrpc;
import io.fullstackagent.sandbox.v1.SandboxServiceGrpc.SandboxServiceBlockingStub;
import io.fullstackagent.sandbox.v1.SandboxSpec;
import io.fullstackagent.sandbox.v1.SandboxStatus;
import io.fullstackagent.sandbox.v1.StartRequest;
import io.fullstackagent.sandbox.v1.StopRequest;
import io.fullstackagent.sandbox.v1.UpdateEnvVarsRequest;
import io.fullstackagent.sandbox.v1.WatchStatusRequest;
import io.fullstackagent.sandbox.v1.WatchStatusResponse;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.function.Supplier;

/** Creates a sandbox, waits for it by watching, changes it, repairs it and deletes it. Prints a line for each step. */
public final class Story {
  /** Ends with exit code 3 while the variable BROKEN is set. */
  private static final List<String> COMMAND =
      List.of("/bin/sh", "-c", "test -z \"$BROKEN\" || exit 3; exec sleep 1000000");

  private final SandboxServiceBlockingStub stub;

  private Story(SandboxServiceBlockingStub stub) {
    this.stub = stub;
  }

  /**
   * Calls {@code last} with the statuses of a sandbox until it returns true, without a gap across lost connections.
   * Begins with the current status if {@code after} is null. With several sandboxes, resume from snapshot_complete on.
   */
  private void watch(String sandboxId, Long after, Predicate<SandboxStatus> last) throws Exception {
    Deadline deadline = Deadline.after(60, TimeUnit.SECONDS);
    while (true) {
      WatchStatusRequest.Builder request = WatchStatusRequest.newBuilder().addSandboxIds(sandboxId);
      if (after != null) {
        request.setAfterSequence(after);
      }
      // Ends the stream when this block is left.
      try (Context.CancellableContext context = Context.current().withCancellation()) {
        Iterator<WatchStatusResponse> messages =
            context.call(() -> stub.withDeadline(deadline).watchStatus(request.build()));
        while (messages.hasNext()) {
          WatchStatusResponse message = messages.next();
          after = message.getSequence();
          if (message.hasStatus() && last.test(message.getStatus())) {
            return;
          }
        }
        throw new IllegalStateException("the sandbox ended");
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() == Status.Code.OUT_OF_RANGE) {
          after = null; // The history is no longer kept: begin with the current status.
        } else if (lost(error)) {
          Thread.sleep(200);
        } else {
          throw error;
        }
      }
    }
  }

  /** Sends a mutation, and again if the connection was lost in a way that gRPC itself does not repeat. */
  private static Sandbox mutate(Supplier<Sandbox> call) throws InterruptedException {
    for (int tries = 1; ; tries++) {
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        if (!lost(error) || tries == 5) {
          throw error;
        }
        Thread.sleep(200);
      }
    }
  }

  /** Whether the service was not reached or not ready. An error of grpc-java itself has a cause, and sometimes UNKNOWN. */
  private static boolean lost(StatusRuntimeException error) {
    Status.Code code = error.getStatus().getCode();
    return code == Status.Code.UNAVAILABLE || code == Status.Code.CANCELLED || error.getStatus().getCause() != null;
  }

  /** Returns the status with which the sandbox has the phase, or the error that its caller has to remove. Prints it. */
  private SandboxStatus wait(String step, Sandbox sandbox, Phase phase) throws Exception {
    List<SandboxStatus> seen = new ArrayList<>();
    watch(sandbox.getSandboxId(), null, status -> {
      seen.add(status);
      if (status.getGeneration() < sandbox.getStatus().getGeneration()) {
        return false; // From before the mutation.
      }
      // With another remedy the sandbox may recover by itself, so that waiting goes on.
      boolean failed = status.getPhase() == Phase.PHASE_ERROR && status.getRemedy() == Remedy.REMEDY_CALLER;
      return status.getPhase() == phase || failed;
    });
    SandboxStatus status = seen.get(seen.size() - 1);
    report(step, status);
    return status;
  }

  private static void report(String step, SandboxStatus status) {
    String words = status.getPhase() + ", generation " + status.getGeneration();
    if (status.getPhase() == Phase.PHASE_ERROR) {
      words += ", " + status.getReason() + ", " + status.getRemedy();
    }
    System.out.println(step + ": " + words);
  }

  /** Prints what the details of an error say: its reason, bad fields, and the current generation. */
  private static void explain(String step, StatusRuntimeException error) throws InvalidProtocolBufferException {
    List<String> words = new ArrayList<>(List.of(error.getStatus().getCode().name()));
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        words.add(info.getReason());
        if (info.containsMetadata("generation")) {
          words.add("generation " + info.getMetadataOrThrow("generation"));
        }
      } else if (detail.is(BadRequest.class)) {
        detail.unpack(BadRequest.class).getFieldViolationsList().forEach(bad -> words.add(bad.getField()));
      }
    }
    System.out.println(step + ": " + String.join(", ", words));
  }

  private static String requestId() {
    return UUID.randomUUID().toString();
  }

  private void tell() throws Exception {
    CreateSandboxRequest create = CreateSandboxRequest.newBuilder()
        .setRequestId(requestId())
        .setSpec(SandboxSpec.newBuilder().setProject("example").addAllCommand(COMMAND))
        .putEnv("GREETING", "hello")
        .build();
    Sandbox sandbox = mutate(() -> stub.createSandbox(create).getSandbox());
    System.out.println("create: generation " + sandbox.getStatus().getGeneration());
    Sandbox again = mutate(() -> stub.createSandbox(create).getSandbox());
    System.out.println("repeat: " + (again.getUid().equals(sandbox.getUid()) ? "the same sandbox" : "another sandbox"));
    SandboxStatus first = wait("wait", sandbox, Phase.PHASE_RUNNING);

    String id = sandbox.getSandboxId();
    String namespace = sandbox.getNamespace();
    var update = UpdateEnvVarsRequest.newBuilder().setSandboxId(id).setNamespace(namespace).buildPartial();
    var env = update.toBuilder().setRequestId(requestId()).putSet("GREETING", "hi").build();
    wait("env", mutate(() -> stub.updateEnvVars(env).getSandbox()), Phase.PHASE_RUNNING);
    var stop = StopRequest.newBuilder().setRequestId(requestId()).setSandboxId(id).setNamespace(namespace).build();
    wait("stop", mutate(() -> stub.stop(stop).getSandbox()), Phase.PHASE_STOPPED);
    var start = StartRequest.newBuilder().setRequestId(requestId()).setSandboxId(id).setNamespace(namespace).build();
    SandboxStatus last = wait("start", mutate(() -> stub.start(start).getSandbox()), Phase.PHASE_RUNNING);

    // A watch that begins where another one ended has every event since then.
    List<String> phases = new ArrayList<>();
    watch(id, first.getSequence(), status -> {
      String phase = status.getPhase().name();
      if (phases.isEmpty() || !phases.get(phases.size() - 1).equals(phase)) {
        phases.add(phase);
      }
      return status.getSequence() >= last.getSequence();
    });
    System.out.println("resume: " + String.join(", ", phases));

    try {
      var stale = stop.toBuilder().setRequestId(requestId()).setExpectedGeneration(1).build();
      mutate(() -> stub.stop(stale).getSandbox());
    } catch (StatusRuntimeException error) {
      explain("stale", error);
    }
    try {
      var spec = SandboxSpec.newBuilder().setProject("No_Label");
      var refused = CreateSandboxRequest.newBuilder().setRequestId(requestId()).setSpec(spec).build();
      mutate(() -> stub.createSandbox(refused).getSandbox());
    } catch (StatusRuntimeException error) {
      explain("refused", error);
    }

    var broken = update.toBuilder().setRequestId(requestId()).putSet("BROKEN", "yes").build();
    wait("remedy", mutate(() -> stub.updateEnvVars(broken).getSandbox()), Phase.PHASE_RUNNING);
    var repair = update.toBuilder().setRequestId(requestId()).addUnset("BROKEN").build();
    wait("repair", mutate(() -> stub.updateEnvVars(repair).getSandbox()), Phase.PHASE_RUNNING);
    var delete = DeleteRequest.newBuilder().setRequestId(requestId()).setSandboxId(id).setNamespace(namespace).build();
    wait("delete", mutate(() -> stub.delete(delete).getSandbox()), Phase.PHASE_TERMINATED);
  }

  public static void main(String[] arguments) throws Exception {
    String server = System.getenv().getOrDefault("SANDBOX_SERVER", "127.0.0.1:50051");
    var config = new InputStreamReader(Story.class.getResourceAsStream("/service_config.json"), StandardCharsets.UTF_8);
    ManagedChannel channel = Grpc.newChannelBuilder(server, InsecureChannelCredentials.create())
        // gRPC repeats calls on UNAVAILABLE and CANCELLED, which is safe because every mutation has a request id.
        .defaultServiceConfig(new Gson().<Map<String, ?>>fromJson(config, Map.class))
        // A connection that went silent is noticed within 40 seconds.
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .build();
    try {
      new Story(SandboxServiceGrpc.newBlockingStub(channel)).tell();
    } finally {
      channel.shutdownNow();
    }
  }
}
