package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// PortForward connects to a port of the container's own network as containerd does: once one direction has ended, the
// other one has a second left.
func (r *containerd) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	found, err := r.find(id)
	if err != nil {
		return err
	}
	defer stream.Close()
	connection, err := found.connect(r.enter, port)
	if err != nil {
		return fmt.Errorf("failed to execute portforward in network namespace %q: %w", "simulated", err)
	}
	defer connection.Close()
	ends := make(chan error, 2)
	go func() { _, err := io.Copy(stream, connection); ends <- err }()
	go func() { _, err := io.Copy(connection, stream); ends <- err }()
	err = <-ends
	select {
	case other := <-ends:
		if err == nil {
			err = other
		}
	case <-time.After(time.Second):
	}
	return err
}

// connect returns a connection that was opened in the network of the container.
func (c *container) connect(enter []string, port int32) (net.Conn, error) {
	refused, refuses, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer refused.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	own, given := os.NewFile(uintptr(pair[0]), "own"), os.NewFile(uintptr(pair[1]), "given")
	defer own.Close()
	command := c.entered(enter, []string{"connect", fmt.Sprint(port)}, refuses)
	command.Stdout = given
	err = begin(command)
	given.Close()
	refuses.Close()
	if err != nil {
		return nil, err
	}
	reason, _ := io.ReadAll(refused)
	_ = command.Wait()
	if len(reason) > 0 {
		return nil, errors.New(string(reason))
	}
	control := make([]byte, syscall.CmsgSpace(4))
	_, length, _, _, err := syscall.Recvmsg(pair[0], make([]byte, 1), control, 0)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:length])
	if err != nil || len(messages) == 0 {
		return nil, errors.New("no connection was passed")
	}
	descriptors, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	passed := os.NewFile(uintptr(descriptors[0]), "connection")
	defer passed.Close()
	return net.FileConn(passed)
}
