package main

import (
	"context"
	"io"
	"sync"
)

// Attach sends what the container prints from now on.
func (r *containerd) Attach(
	_ context.Context, id string, _ io.Reader, out, complaints io.WriteCloser, _ bool, _ <-chan terminalSize,
) error {
	found, err := r.find(id)
	if err != nil {
		return err
	}
	defer found.tap.open(out, complaints)()
	<-found.ended
	return nil
}

// tap passes on what a container prints to who is attached.
type tap struct {
	guard    sync.Mutex
	attached map[int][2]io.Writer
	next     int
}

func (t *tap) open(out, complaints io.WriteCloser) func() {
	t.guard.Lock()
	defer t.guard.Unlock()
	if t.attached == nil {
		t.attached = map[int][2]io.Writer{}
	}
	number := t.next
	t.next++
	t.attached[number] = [2]io.Writer{writer(out), writer(complaints)}
	return func() {
		t.guard.Lock()
		defer t.guard.Unlock()
		delete(t.attached, number)
	}
}

func (t *tap) to(descriptor int) io.Writer {
	return tapped{t, descriptor - 1}
}

type tapped struct {
	tap   *tap
	index int
}

func (t tapped) Write(data []byte) (int, error) {
	t.tap.guard.Lock()
	defer t.tap.guard.Unlock()
	for number, both := range t.tap.attached {
		if _, err := both[t.index].Write(data); err != nil {
			delete(t.tap.attached, number)
		}
	}
	return len(data), nil
}
