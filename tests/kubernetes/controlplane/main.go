// One binary that is each component of a Kubernetes control plane, by its first argument. Every component runs in a
// process of its own: two in one process fight over global state, and a test kills or pauses each by itself.
package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: controlplane etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl ...")
	}
	name := os.Args[1]
	os.Args = os.Args[1:]
	if name != "kubectl" {
		go endWithStarter()
	}
	switch name {
	case "etcd":
		etcd()
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubelet":
		kubelet()
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	default:
		fail("no component " + name)
	}
}

// endWithStarter ends a component when its standard input does, which whoever has started it holds open. So no component
// outlives tests that were killed.
func endWithStarter() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}

// etcd DIRECTORY CLIENT-URL PEER-URL: one member that does not wait for the disk, for tests.
func etcd() {
	if len(os.Args) != 4 {
		fail("usage: controlplane etcd DIRECTORY CLIENT-URL PEER-URL")
	}
	client, peer := parse(os.Args[2]), parse(os.Args[3])
	config := embed.NewConfig()
	config.Dir = os.Args[1]
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true
	config.LogLevel = "error"
	server, err := embed.StartEtcd(config)
	if err != nil {
		fail(err.Error())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-signals:
		server.Close()
	case err := <-server.Err():
		fail(err.Error())
	}
}

func parse(text string) url.URL {
	parsed, err := url.Parse(text)
	if err != nil {
		fail(err.Error())
	}
	return *parsed
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}
