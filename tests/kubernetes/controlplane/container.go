package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// containerd is what containerd is to a kubelet.
type containerd struct {
	folder     string
	enter      []string
	guard      sync.Mutex
	containers map[string]*container
}

// container is one start of a container: a real process in bubblewrap.
type container struct {
	Namespace string            `json:"namespace"`
	Pod       string            `json:"pod"`
	UID       string            `json:"uid"`
	Name      string            `json:"name"`
	Attempt   int               `json:"attempt"`
	Words     []string          `json:"words"`   // of bubblewrap, which reports on descriptor 3 and has more options on 4
	Options   []byte            `json:"options"` // those on descriptor 4
	Env       map[string]string `json:"env"`     // of what is executed in the container
	Folder    string            `json:"folder"`  // in which that begins
	Shared    bool              `json:"shared"`  // whether process 1 is the pod's: it is bubblewrap's, and has no other child

	id    string
	pid   int // of its own first process
	log   string
	ended chan struct{} // closed when `code` is set
	code  int
	tap   tap
}

func (r *containerd) find(id string) (*container, error) {
	r.guard.Lock()
	defer r.guard.Unlock()
	if found := r.containers[id]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("an error occurred when try to find container %q: not found", id)
}

// attempts returns the starts of a container, or of all of a pod, the oldest first.
func (r *containerd) attempts(namespace, pod, name string) []*container {
	r.guard.Lock()
	defer r.guard.Unlock()
	var found []*container
	for _, one := range r.containers {
		if one.Namespace == namespace && one.Pod == pod && (name == "" || one.Name == name) {
			found = append(found, one)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Attempt < found[j].Attempt })
	return found
}

// start runs the first process of a container. As a kubelet does, it forgets all earlier starts but the last.
func (r *containerd) start(made *container) error {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	made.id, made.ended = hex.EncodeToString(random), make(chan struct{})
	folder := filepath.Join(r.folder, made.Namespace+"_"+made.Pod+"_"+made.UID, made.Name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	made.log = filepath.Join(folder, strconv.Itoa(made.Attempt)+".log")
	if err := made.run(); err != nil {
		return err
	}
	r.guard.Lock()
	defer r.guard.Unlock()
	for id, one := range r.containers {
		if one.Pod == made.Pod && one.Namespace == made.Namespace && (one.UID != made.UID || one.Attempt < made.Attempt-1) {
			delete(r.containers, id)
			_ = os.Remove(one.log)
		}
	}
	r.containers[made.id] = made
	return nil
}

// remove kills what runs of a pod, and forgets it.
func (r *containerd) remove(uid string) {
	r.guard.Lock()
	defer r.guard.Unlock()
	for id, one := range r.containers {
		if one.UID == uid {
			one.signal(syscall.SIGKILL)
			delete(r.containers, id)
			_ = os.RemoveAll(filepath.Dir(filepath.Dir(one.log)))
		}
	}
}

func (c *container) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// signal sends a signal to the first process, which the kernel gives it only if it handles that, or it is SIGKILL.
func (c *container) signal(number syscall.Signal) {
	if !c.over() {
		_ = syscall.Kill(c.pid, number)
	}
}

func (c *container) run() error {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	status, reported, err := os.Pipe()
	if err != nil {
		return err
	}
	options, given, err := os.Pipe()
	if err != nil {
		return err
	}
	out, printed, err := os.Pipe()
	if err != nil {
		return err
	}
	complaints, complained, err := os.Pipe()
	if err != nil {
		return err
	}
	bubblewrap := exec.Command(c.Words[0], c.Words[1:]...)
	bubblewrap.Env = []string{}
	bubblewrap.Stdout, bubblewrap.Stderr = printed, complained
	bubblewrap.ExtraFiles = []*os.File{reported, options}
	bubblewrap.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = begin(bubblewrap)
	for _, own := range []*os.File{reported, options, printed, complained} {
		own.Close()
	}
	if err != nil {
		return err
	}
	go func() {
		_, _ = given.Write(c.Options)
		given.Close()
	}()
	var said struct {
		Pid int `json:"child-pid"`
	}
	if err := json.NewDecoder(status).Decode(&said); err != nil {
		text, _ := io.ReadAll(complaints)
		_ = bubblewrap.Wait()
		return fmt.Errorf("failed to create containerd task: %s", bytes.TrimSpace(text))
	}
	var copied sync.WaitGroup
	lines := &criLog{file: log}
	copied.Add(2)
	go func() { defer copied.Done(); lines.copy("stdout", io.TeeReader(out, c.tap.to(1))) }()
	go func() { defer copied.Done(); lines.copy("stderr", io.TeeReader(complaints, c.tap.to(2))) }()
	go func() {
		err := bubblewrap.Wait()
		var end *exec.ExitError
		if errors.As(err, &end) {
			c.code = exitCode(end)
		}
		copied.Wait()
		log.Close()
		status.Close()
		close(c.ended)
	}()
	return c.settle(bubblewrap.Path, said.Pid)
}

// settle waits until bubblewrap has made the namespaces ready and become, or started, the process of the container.
func (c *container) settle(bubblewrap string, child int) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && !c.over(); time.Sleep(2 * time.Millisecond) {
		c.pid = child
		if c.Shared {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", child, child))
			c.pid, _ = strconv.Atoi(string(bytes.TrimSpace(children)))
		}
		runs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.pid))
		if err == nil && runs != bubblewrap {
			return nil
		}
	}
	if c.over() {
		return nil
	}
	return errors.New("failed to create containerd task: timed out")
}

func exitCode(end *exec.ExitError) int {
	if status := end.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return end.ExitCode()
}

var starts = make(chan func())

func init() {
	go func() {
		goruntime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
}

// begin starts a command from a thread that never ends: the kernel kills the command with the thread that started it.
func begin(command *exec.Cmd) error {
	failed := make(chan error)
	starts <- func() { failed <- command.Start() }
	return <-failed
}
