package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
)

// lineMost is how much of a line containerd writes as one entry.
const lineMost = 16 << 10

// criLog writes what a container prints, in the format that kubelets read.
type criLog struct {
	guard sync.Mutex
	file  *os.File
}

func (l *criLog) copy(stream string, from io.Reader) {
	reader := bufio.NewReaderSize(from, lineMost)
	for {
		line, partial, err := reader.ReadLine()
		if err != nil {
			return
		}
		tag := "F"
		if partial {
			tag = "P"
		}
		l.guard.Lock()
		fmt.Fprintf(l.file, "%s %s %s %s\n", time.Now().Format(time.RFC3339Nano), stream, tag, line)
		l.guard.Unlock()
	}
}

// readLogs answers with the log of a container, or of the one before it.
func (n *node) readLogs(w http.ResponseWriter, r *http.Request) error {
	options := &v1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), v1.SchemeGroupVersion, options); err != nil {
		return err
	}
	pod, name := r.PathValue("pod"), r.PathValue("container")
	attempts := n.runtime.attempts(r.PathValue("namespace"), pod, name)
	if len(attempts) == 0 {
		return fmt.Errorf("container %q in pod %q is waiting to start: ContainerCreating", name, pod)
	}
	read := attempts[len(attempts)-1]
	// While a container waits to be started again, the last one that ran counts as the previous one.
	if options.Previous && !read.over() {
		if len(attempts) == 1 {
			return fmt.Errorf("previous terminated container %q in pod %q not found", name, pod)
		}
		read = attempts[len(attempts)-2]
	}
	out, complaints := io.Writer(flushed{w}), io.Writer(flushed{w})
	if options.Stream != nil && *options.Stream == v1.LogStreamStdout {
		complaints = nil
	}
	if options.Stream != nil && *options.Stream == v1.LogStreamStderr {
		out = nil
	}
	// The answer begins before there is a line.
	_, _ = flushed{w}.Write(nil)
	return readLogs(r.Context(), read.log, read.id, options, statuses{runtime: n.runtime}, out, complaints)
}

// flushed sends each line when it is written.
type flushed struct{ http.ResponseWriter }

func (f flushed) Write(data []byte) (int, error) {
	written, err := f.ResponseWriter.Write(data)
	return written, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}

// statuses tells the reader of a log whether there is more to come.
type statuses struct {
	internalapi.RuntimeService
	runtime *containerd
}

func (s statuses) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if found, err := s.runtime.find(id); err == nil && !found.over() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}
