// A status relay: passes every status of every sandbox on, in order and once, as a line of JSON. A scheduler or a queue reads
// them without knowing the service.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "example.com/caller/gen/sandbox/v1"
)

const serviceConfig = "../../protos/service_config.json"

// A line is what the relay passes on.
type line struct {
	// "list" begins a list: forget what came before. "listed" is a status in it, "event" one that came after it.
	Kind     string `json:"kind"`
	Sequence int64  `json:"sequence"`
	Sandbox  string `json:"sandbox,omitempty"`
	Uid      string `json:"uid,omitempty"`
	Phase    string `json:"phase,omitempty"`
}

// A relay is as far as `after`. `passed` has the sequence of the last status of each sandbox, by its uid.
type relay struct {
	client pb.SandboxServiceClient
	out    *json.Encoder
	after  *int64
	passed map[string]int64
}

// pass passes a status on, unless the list had it already.
func (r *relay) pass(kind string, current *pb.SandboxStatus) error {
	if current.Sequence <= r.passed[current.Uid] {
		return nil
	}
	r.passed[current.Uid] = current.Sequence
	if current.Phase == pb.Phase_PHASE_TERMINATED {
		delete(r.passed, current.Uid)
	}
	name := current.Namespace + "/" + current.SandboxId
	return r.out.Encode(line{kind, current.Sequence, name, current.Uid, current.Phase.String()})
}

// list passes on how all sandboxes are now.
func (r *relay) list(ctx context.Context) error {
	var first *int64
	var listed []*pb.Sandbox
	request := &pb.ListSandboxesRequest{View: pb.SandboxView_SANDBOX_VIEW_BASIC}
	for first == nil || request.PageToken != "" {
		page, err := r.client.ListSandboxes(ctx, request)
		if err != nil {
			return err
		}
		listed = append(listed, page.Sandboxes...)
		// What happens while the other pages are read comes after the sequence of the first one.
		if first == nil {
			first = &page.Sequence
		}
		request.PageToken = page.NextPageToken
	}
	if err := r.out.Encode(line{Kind: "list", Sequence: *first}); err != nil {
		return err
	}
	r.passed = map[string]int64{}
	for _, one := range listed {
		if err := r.pass("listed", one.Status); err != nil {
			return err
		}
	}
	r.after = first
	return nil
}

// follow passes on every event after r.after, until the stream breaks.
func (r *relay) follow(ctx context.Context) error {
	stream, err := r.client.WatchStatus(ctx, &pb.WatchStatusRequest{AfterSequence: r.after})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		if current := message.GetStatus(); current != nil {
			if err := r.pass("event", current); err != nil {
				return err
			}
		}
		r.after = &message.Sequence // Of a heartbeat, too: nothing was missed up to there.
	}
}

// run lists and follows, and lists again when the history no longer has what comes next.
func (r *relay) run(ctx context.Context) error {
	for {
		var err error
		if r.after == nil {
			err = r.list(ctx)
		} else {
			err = r.follow(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch status.Code(err) {
		case codes.OK:
		case codes.OutOfRange:
			r.after = nil
		case codes.Unavailable, codes.Canceled:
			time.Sleep(200 * time.Millisecond)
		default:
			return err
		}
	}
}

func main() {
	config, err := os.ReadFile(serviceConfig)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(cmp.Or(os.Getenv("SANDBOX_SERVER"), "127.0.0.1:50051"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config)),
		// A connection that went silent is noticed within 40 seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	relay := relay{client: pb.NewSandboxServiceClient(connection), out: json.NewEncoder(os.Stdout)}
	log.Fatal(relay.run(context.Background()))
}
