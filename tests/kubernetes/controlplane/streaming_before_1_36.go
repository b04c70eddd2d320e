//go:build before_1_36

package main

import (
	"context"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
	"k8s.io/kubelet/pkg/cri/streaming"
	served "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
)

type (
	streamServer = streaming.Server
	terminalSize = remotecommand.TerminalSize
)

var (
	newStreams       = streaming.NewServer
	newStreamOptions = served.NewOptions
	streamDefaults   = streaming.DefaultConfig
	writeStreamError = streaming.WriteError
)

func readLogs(
	ctx context.Context, path, id string, asked *v1.PodLogOptions, runtime statuses, out, complaints io.Writer,
) error {
	logger := klog.FromContext(ctx)
	return logs.ReadLogs(ctx, &logger, path, id, logs.NewLogOptions(asked, time.Now()), runtime, out, complaints)
}
