//go:build !before_1_36

package main

import (
	"context"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

type (
	streamServer = streaming.Server
	terminalSize = remotecommand.TerminalSize
)

var (
	newStreams       = streaming.NewServer
	newStreamOptions = remotecommand.NewOptions
	streamDefaults   = streaming.DefaultConfig
	writeStreamError = streaming.WriteError
)

func readLogs(
	ctx context.Context, path, id string, asked *v1.PodLogOptions, runtime statuses, out, complaints io.Writer,
) error {
	var since time.Time
	if asked.SinceSeconds != nil {
		since = time.Now().Add(-time.Duration(*asked.SinceSeconds) * time.Second)
	}
	if asked.SinceTime != nil {
		since = asked.SinceTime.Time
	}
	options := &logs.LogOptions{
		TailLines:  asked.TailLines,
		LimitBytes: asked.LimitBytes,
		Since:      since,
		Follow:     asked.Follow,
		Timestamp:  asked.Timestamps,
	}
	return logs.ReadLogs(ctx, path, id, options, runtime, out, complaints)
}
