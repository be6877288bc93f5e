package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// CaptureOptions says what to record.
type CaptureOptions struct {
	Device string // "any" for all of the place
	Filter string // pcap-filter(7); "" records everything
	Limit  int    // packets after which the capture ends by itself; 0 is 10,000
	File   string // also write the packets there in pcap form; a path as the place sees it, "" for none
}

// Capture is a recording under way. Its methods are safe for concurrent use.
type Capture struct {
	place    string
	cmd      *exec.Cmd
	finished chan struct{}

	mu     sync.Mutex
	lines  []string
	errors bytes.Buffer
	err    error // of the end, valid once finished is closed
}

// StartCapture records packets in the place with tcpdump(8) and returns when it is listening, so that what is sent next is
// seen. The caller ends it with Stop; it also ends with the context.
func (s Space) StartCapture(ctx context.Context, o CaptureOptions) (*Capture, error) {
	if o.Limit <= 0 {
		o.Limit = 10_000
	}
	args := []string{"tcpdump", "-i", o.Device, "-n", "-e", "-tt", "-l", "-U", "--immediate-mode", "-Z", "root", "-c", strconv.Itoa(o.Limit)}
	if o.File != "" {
		args = append(args, "-w", o.File, "--print")
	}
	if o.Filter != "" {
		args = append(args, o.Filter)
	}
	cmd, err := s.Command(ctx, args...)
	if err != nil {
		return nil, err
	}
	ownGroup(cmd, syscall.SIGKILL)
	c := &Capture{place: s.String() + " " + o.Device, cmd: cmd, finished: make(chan struct{})}
	return c, c.begin(ctx)
}

func (c *Capture) begin(ctx context.Context) error {
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("capture on %s: %w", c.place, err)
	}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("capture on %s: %w", c.place, err)
	}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("capture on %s: start tcpdump: %w", c.place, err)
	}
	listening := make(chan struct{})
	go c.follow(stdout, stderr, listening)
	select {
	case <-listening:
		return nil
	case <-c.finished:
		return fmt.Errorf("capture on %s: tcpdump ended: %w: %s", c.place, c.err, c.complaint())
	case <-ctx.Done():
		<-c.finished
		return fmt.Errorf("capture on %s: %w", c.place, ctx.Err())
	}
}

// follow reads tcpdump's two outputs to their ends, and then its exit.
func (c *Capture) follow(stdout, stderr io.Reader, listening chan<- struct{}) {
	var readers sync.WaitGroup
	readers.Go(func() {
		eachLine(stdout, func(line string) {
			if line != "" { // tcpdump ends with an empty one
				c.lines = append(c.lines, line)
			}
		}, &c.mu)
	})
	readers.Go(func() {
		eachLine(stderr, func(line string) {
			c.errors.WriteString(line + "\n")
			if strings.HasPrefix(line, "tcpdump: listening on") || strings.HasPrefix(line, "listening on") {
				close(listening)
			}
		}, &c.mu)
	})
	readers.Wait()
	c.err = c.cmd.Wait()
	close(c.finished)
}

func eachLine(from io.Reader, do func(string), mu *sync.Mutex) {
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		mu.Lock()
		do(scanner.Text())
		mu.Unlock()
	}
}

func (c *Capture) complaint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(c.errors.String())
}

// Packets are those recorded so far, one line each: time stamp, link-level header, contents.
func (c *Capture) Packets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// Await returns the packets once there are at least n.
func (c *Capture) Await(ctx context.Context, n int) ([]string, error) {
	err := await(ctx, fmt.Sprintf("%d packets are seen on %s", n, c.place), func() error {
		if have := len(c.Packets()); have < n {
			return fmt.Errorf("%d so far", have)
		}
		return nil
	})
	return c.Packets(), err
}

// Stop ends the capture and returns all packets. Idempotent.
func (c *Capture) Stop() ([]string, error) {
	select {
	case <-c.finished:
		return c.Packets(), nil // by its limit
	default:
	}
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return c.Packets(), fmt.Errorf("end the capture on %s: %w", c.place, err)
	}
	<-c.finished
	return c.Packets(), nil
}

// run executes a program of the machine, outside of every host.
func run(ctx context.Context, name string, args ...string) error {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(output)))
	}
	return nil
}
