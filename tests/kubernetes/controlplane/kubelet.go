package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"k8s.io/klog/v2"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubelet FOLDER ADDRESS ENTER...: the part of a kubelet that the API server speaks to, over a runtime that runs real
// processes. FOLDER has the keys and gets the logs of the containers; ENTER runs a program in the namespaces of a process.
//
// Who plays the rest of the kubelet starts and stops containers through the socket FOLDER/runtime.sock.
func kubelet() {
	if len(os.Args) < 4 {
		fail("usage: controlplane kubelet FOLDER ADDRESS ENTER...")
	}
	folder, address := os.Args[1], os.Args[2]
	runtime := &containerd{folder: filepath.Join(folder, "pods"), enter: os.Args[3:], containers: map[string]*container{}}
	streams, err := newStreams(streamDefaults, runtime)
	if err != nil {
		fail(err.Error())
	}
	failures := make(chan error, 2)
	go func() { failures <- serveRuntime(filepath.Join(folder, "runtime.sock"), runtime) }()
	go func() { failures <- serveNode(folder, address, &node{runtime, streams}) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-signals:
	case err := <-failures:
		fail(err.Error())
	}
}

// serveNode serves the API server, which shows a certificate of the cluster's authority.
func serveNode(folder, address string, node *node) error {
	authority, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	server := &http.Server{
		Addr:    address,
		Handler: node.routes(),
		// A connection is upgraded to SPDY, which HTTP/2 has no way for.
		TLSConfig: &tls.Config{ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"}},
	}
	return server.ListenAndServeTLS(filepath.Join(folder, "kubelet.crt"), filepath.Join(folder, "kubelet.key"))
}

// serveRuntime serves who starts and stops containers.
func serveRuntime(path string, runtime *containerd) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /containers", func(w http.ResponseWriter, r *http.Request) {
		asked := &container{}
		err := json.NewDecoder(r.Body).Decode(asked)
		if err == nil {
			err = runtime.start(asked)
		}
		answer(w, map[string]string{"id": asked.id}, err)
	})
	// Answers when the container has ended.
	routes.HandleFunc("GET /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		found, err := runtime.find(r.PathValue("id"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		select {
		case <-found.ended:
			answer(w, map[string]int{"code": found.code}, nil)
		case <-r.Context().Done():
		}
	})
	routes.HandleFunc("POST /containers/{id}/signal/{name}", func(w http.ResponseWriter, r *http.Request) {
		found, err := runtime.find(r.PathValue("id"))
		if err == nil {
			found.signal(map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[r.PathValue("name")])
		}
		answer(w, nil, err)
	})
	routes.HandleFunc("DELETE /pods/{uid}", func(w http.ResponseWriter, r *http.Request) {
		runtime.remove(r.PathValue("uid"))
		answer(w, nil, nil)
	})
	return http.Serve(listener, routes)
}

func answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(value)
}

// node answers the API server as a kubelet does, with the same words where something is wrong.
type node struct {
	runtime *containerd
	streams streamServer
}

func (n *node) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", n.logs)
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", n.exec)
	routes.HandleFunc("/attach/{namespace}/{pod}/{container}", n.attach)
	routes.HandleFunc("/portForward/{namespace}/{pod}", n.portForward)
	return routes
}

func (n *node) exec(w http.ResponseWriter, r *http.Request) {
	options, err := newStreamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	running := n.running(w, r)
	if running == nil {
		return
	}
	answered, err := n.streams.GetExec(&runtimeapi.ExecRequest{
		ContainerId: running.id,
		Cmd:         r.URL.Query()["command"],
		Stdin:       options.Stdin,
		Stdout:      options.Stdout,
		Stderr:      options.Stderr,
		Tty:         options.TTY,
	})
	n.stream(w, r, answered.GetUrl(), err)
}

func (n *node) attach(w http.ResponseWriter, r *http.Request) {
	options, err := newStreamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	running := n.running(w, r)
	if running == nil {
		return
	}
	answered, err := n.streams.GetAttach(&runtimeapi.AttachRequest{
		ContainerId: running.id,
		Stdin:       options.Stdin,
		Stdout:      options.Stdout,
		Stderr:      options.Stderr,
		Tty:         options.TTY,
	})
	n.stream(w, r, answered.GetUrl(), err)
}

func (n *node) portForward(w http.ResponseWriter, r *http.Request) {
	running := n.running(w, r)
	if running == nil {
		return
	}
	answered, err := n.streams.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: running.id})
	n.stream(w, r, answered.GetUrl(), err)
}

// running returns the container that a request names, or that of the pod if it names none. Answers if there is none.
func (n *node) running(w http.ResponseWriter, r *http.Request) *container {
	attempts := n.runtime.attempts(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if len(attempts) == 0 {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return nil
	}
	last := attempts[len(attempts)-1]
	if last.over() {
		writeStreamError(fmt.Errorf("container not found (%q)", last.Name), w)
		return nil
	}
	return last
}

// stream serves a request that the streaming server has given a place of its own.
func (n *node) stream(w http.ResponseWriter, r *http.Request, place string, err error) {
	if err == nil {
		r.URL, err = r.URL.Parse(place)
	}
	if err != nil {
		writeStreamError(err, w)
		return
	}
	n.streams.ServeHTTP(w, r)
}

func (n *node) logs(w http.ResponseWriter, r *http.Request) {
	err := n.readLogs(w, r)
	if err != nil && !errors.Is(err, r.Context().Err()) {
		klog.ErrorS(err, "Logs", "path", r.URL.Path)
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}
