// Creates a sandbox, waits for it by watching, changes it, repairs it and deletes it. Prints a line for each step.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "example.com/caller/gen/sandbox/v1"
)

const serviceConfig = "../../protos/service_config.json"

// Ends with exit code 3 while the variable BROKEN is set.
var command = []string{"/bin/sh", "-c", `test -z "$BROKEN" || exit 3; exec sleep 1000000`}

// watch calls take with the statuses of a sandbox until take returns false, without a gap across lost connections. It
// begins with the current status if after is nil. With several sandboxes, resume only from snapshot_complete on.
func watch(ctx context.Context, client pb.SandboxServiceClient, id string, after *int64, take func(*pb.SandboxStatus) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		stream, err := client.WatchStatus(ctx, &pb.WatchStatusRequest{SandboxIds: []string{id}, AfterSequence: after})
		for err == nil {
			var message *pb.WatchStatusResponse
			if message, err = stream.Recv(); err == nil {
				after = proto.Int64(message.Sequence)
				if current := message.GetStatus(); current != nil && !take(current) {
					return nil
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the sandbox ended")
		case status.Code(err) == codes.OutOfRange:
			after = nil // The history is no longer kept: begin with the current status.
		case status.Code(err) == codes.Unavailable, status.Code(err) == codes.Canceled && ctx.Err() == nil:
			time.Sleep(200 * time.Millisecond)
		default:
			return err
		}
	}
}

// wait returns the status with which the sandbox has the phase, or the error that its caller has to remove, and prints it
// for the step.
func wait(ctx context.Context, client pb.SandboxServiceClient, step string, sandbox *pb.Sandbox, phase pb.Phase) (found *pb.SandboxStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = watch(ctx, client, sandbox.SandboxId, nil, func(current *pb.SandboxStatus) bool {
		found = current
		if current.Generation < sandbox.Status.Generation {
			return true // From before the mutation.
		}
		// With another remedy the sandbox may recover by itself, so that waiting goes on.
		failed := current.Phase == pb.Phase_PHASE_ERROR && current.Remedy == pb.Remedy_REMEDY_CALLER
		return current.Phase != phase && !failed
	})
	if err == nil {
		report(step, found)
	}
	return found, err
}

// explain prints what the details of an error say: its reason, bad fields, and the current generation.
func explain(step string, err error) {
	refused := status.Convert(err)
	words := []string{code.Code(refused.Code()).String()}
	for _, detail := range refused.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			words = append(words, detail.Reason)
			if generation := detail.Metadata["generation"]; generation != "" {
				words = append(words, "generation "+generation)
			}
		case *errdetails.BadRequest:
			for _, bad := range detail.FieldViolations {
				words = append(words, bad.Field)
			}
		}
	}
	fmt.Printf("%s: %s\n", step, strings.Join(words, ", "))
}

func report(step string, status *pb.SandboxStatus) {
	words := []string{status.Phase.String(), fmt.Sprintf("generation %d", status.Generation)}
	if status.Phase == pb.Phase_PHASE_ERROR {
		words = append(words, status.Reason.String(), status.Remedy.String())
	}
	fmt.Printf("%s: %s\n", step, strings.Join(words, ", "))
}

func story(ctx context.Context, client pb.SandboxServiceClient) error {
	create := &pb.CreateSandboxRequest{
		RequestId: uuid.NewString(),
		Spec:      &pb.SandboxSpec{Project: "example", Command: command},
		Env:       map[string]string{"GREETING": "hello"},
	}
	created, err := client.CreateSandbox(ctx, create)
	if err != nil {
		return err
	}
	fmt.Printf("create: generation %d\n", created.Sandbox.Status.Generation)
	again, err := client.CreateSandbox(ctx, create)
	if err != nil {
		return err
	}
	if again.Sandbox.Uid != created.Sandbox.Uid {
		return errors.New("the repeat made another sandbox")
	}
	fmt.Println("repeat: the same sandbox")
	first, err := wait(ctx, client, "wait", created.Sandbox, pb.Phase_PHASE_RUNNING)
	if err != nil {
		return err
	}

	id, namespace := created.Sandbox.SandboxId, created.Sandbox.Namespace
	update := func(step string, set map[string]string, unset ...string) error {
		updated, err := client.UpdateEnvVars(ctx, &pb.UpdateEnvVarsRequest{
			RequestId: uuid.NewString(), SandboxId: id, Namespace: namespace, Set: set, Unset: unset,
		})
		if err != nil {
			return err
		}
		_, err = wait(ctx, client, step, updated.Sandbox, pb.Phase_PHASE_RUNNING)
		return err
	}
	if err := update("env", map[string]string{"GREETING": "hi"}); err != nil {
		return err
	}
	stopped, err := client.Stop(ctx, &pb.StopRequest{RequestId: uuid.NewString(), SandboxId: id, Namespace: namespace})
	if err != nil {
		return err
	}
	if _, err := wait(ctx, client, "stop", stopped.Sandbox, pb.Phase_PHASE_STOPPED); err != nil {
		return err
	}
	started, err := client.Start(ctx, &pb.StartRequest{RequestId: uuid.NewString(), SandboxId: id, Namespace: namespace})
	if err != nil {
		return err
	}
	last, err := wait(ctx, client, "start", started.Sandbox, pb.Phase_PHASE_RUNNING)
	if err != nil {
		return err
	}

	// A watch that begins where another one ended has every event since then.
	var phases []string
	err = watch(ctx, client, id, &first.Sequence, func(current *pb.SandboxStatus) bool {
		phases = append(phases, current.Phase.String())
		return current.Sequence < last.Sequence
	})
	if err != nil {
		return err
	}
	fmt.Printf("resume: %s\n", strings.Join(slices.Compact(phases), ", "))

	_, err = client.Stop(ctx, &pb.StopRequest{
		RequestId: uuid.NewString(), SandboxId: id, Namespace: namespace, ExpectedGeneration: proto.Int64(1),
	})
	explain("stale", err)
	_, err = client.CreateSandbox(ctx, &pb.CreateSandboxRequest{
		RequestId: uuid.NewString(), Spec: &pb.SandboxSpec{Project: "No_Label"},
	})
	explain("refused", err)

	if err := update("remedy", map[string]string{"BROKEN": "yes"}); err != nil {
		return err
	}
	if err := update("repair", nil, "BROKEN"); err != nil {
		return err
	}
	deleted, err := client.Delete(ctx, &pb.DeleteRequest{RequestId: uuid.NewString(), SandboxId: id, Namespace: namespace})
	if err != nil {
		return err
	}
	_, err = wait(ctx, client, "delete", deleted.Sandbox, pb.Phase_PHASE_TERMINATED)
	return err
}

func main() {
	config, err := os.ReadFile(serviceConfig)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(cmp.Or(os.Getenv("SANDBOX_SERVER"), "127.0.0.1:50051"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// gRPC repeats calls on UNAVAILABLE and CANCELLED, which is safe because every mutation has a request id.
		grpc.WithDefaultServiceConfig(string(config)),
		// A connection that went silent is noticed within 40 seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if err := story(context.Background(), pb.NewSandboxServiceClient(connection)); err != nil {
		log.Fatal(err)
	}
}
