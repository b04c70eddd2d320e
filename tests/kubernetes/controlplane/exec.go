package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
)

// Exec runs a program in a container as containerd does. The program goes on when its connection is cut, and blocks once
// nobody reads what it prints. If the container ends under it, nothing is ever answered.
func (r *containerd) Exec(
	_ context.Context, id string, words []string, in io.Reader, out, complaints io.WriteCloser, tty bool,
	resize <-chan terminalSize,
) error {
	found, err := r.find(id)
	if err != nil {
		return err
	}
	if found.over() {
		return errors.New("container is in CONTAINER_EXITED state")
	}
	code, err := found.exec(r.enter, words, in, writer(out), writer(complaints), tty, resize)
	if err != nil {
		return fmt.Errorf("failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: "+
			"unable to start container process: %w", err)
	}
	if code == 128+int(syscall.SIGKILL) {
		select {
		case <-found.ended:
			select {}
		case <-time.After(200 * time.Millisecond):
		}
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func (c *container) exec(
	enter, words []string, in io.Reader, out, complaints io.Writer, tty bool, resize <-chan terminalSize,
) (int, error) {
	mode := "exec"
	if tty {
		mode = "terminal"
	}
	refused, refuses, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer refused.Close()
	command := c.entered(enter, append([]string{mode, c.Folder}, words...), refuses)
	streams := &streams{in: in, out: out, complaints: complaints}
	// Whatever the program prints after a cut stays in its pipe, which nobody closes before it ends.
	defer streams.close(&streams.outside)
	if tty {
		command.Env = append(command.Env, "TERM=xterm")
		err = streams.terminal(command, c.pid, resize)
	} else {
		err = streams.pipes(command)
	}
	if err == nil {
		err = begin(command)
	}
	streams.close(&streams.inside)
	refuses.Close()
	if err != nil {
		return 0, err
	}
	reason, _ := io.ReadAll(refused)
	err = command.Wait()
	if len(reason) > 0 {
		return 0, errors.New(string(reason))
	}
	streams.copied.Wait()
	var end *exec.ExitError
	if errors.As(err, &end) {
		return exitCode(end), nil
	}
	return 0, err
}

// entered returns a command that runs in the namespaces of the container. It says on descriptor 3 why it cannot.
func (c *container) entered(enter, words []string, refuses *os.File) *exec.Cmd {
	all := append(append(append([]string{}, enter...), fmt.Sprint(c.pid)), words...)
	command := exec.Command(all[0], all[1:]...)
	for name, value := range c.Env {
		command.Env = append(command.Env, name+"="+value)
	}
	command.ExtraFiles = []*os.File{refuses}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return command
}

// streams are those of a program: of each, what is inside the container and what is outside.
type streams struct {
	in              io.Reader
	out, complaints io.Writer
	inside, outside []*os.File
	copied          sync.WaitGroup
}

func (s *streams) close(files *[]*os.File) {
	for _, one := range *files {
		one.Close()
	}
	*files = nil
}

// drain copies what a program prints until it ends, or its connection is cut.
func (s *streams) drain(to io.Writer, from *os.File) {
	s.outside = append(s.outside, from)
	s.copied.Add(1)
	go func() {
		_, _ = io.Copy(to, from)
		s.copied.Done()
	}()
}

func (s *streams) pipes(command *exec.Cmd) error {
	if s.in != nil {
		taken, given, err := os.Pipe()
		if err != nil {
			return err
		}
		command.Stdin, s.inside = taken, append(s.inside, taken)
		go func() {
			_, _ = io.Copy(given, s.in)
			given.Close()
		}()
	}
	for _, one := range []struct {
		to     io.Writer
		stream *io.Writer
	}{{s.out, &command.Stdout}, {s.complaints, &command.Stderr}} {
		printed, prints, err := os.Pipe()
		if err != nil {
			return err
		}
		*one.stream, s.inside = prints, append(s.inside, prints)
		s.drain(one.to, printed)
	}
	return nil
}

// terminal gives a program a terminal of the container whose first process is pid.
func (s *streams) terminal(command *exec.Cmd, pid int, resize <-chan terminalSize) error {
	master, err := os.OpenFile(fmt.Sprintf("/proc/%d/root/dev/pts/ptmx", pid), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	number := int(master.Fd())
	if err := unix.IoctlSetPointerInt(number, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	peer, _, failed := syscall.Syscall(syscall.SYS_IOCTL, uintptr(number), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if failed != 0 {
		return failed
	}
	inside := os.NewFile(peer, "terminal")
	command.Stdin, command.Stdout, command.Stderr, s.inside = inside, inside, inside, []*os.File{inside}
	if s.in != nil {
		go func() { _, _ = io.Copy(master, s.in) }()
	}
	go func() {
		for size := range resize {
			_ = unix.IoctlSetWinsize(number, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		}
	}()
	s.drain(s.out, master)
	return nil
}

// writer returns a stream that was asked for, or one that takes everything.
func writer(stream io.WriteCloser) io.Writer {
	if stream == nil {
		return io.Discard
	}
	return stream
}
