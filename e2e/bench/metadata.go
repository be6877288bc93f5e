package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func metadata() []measurement {
	return []measurement{
		{"metadata", measureMetadata, []figure{{
			ID: "metadata", Name: "metadata request through the proxy", Unit: "ms", Reach: 2,
			Between: "a VM on a compute node connects to 169.254.169.254 -> it has read all of /openstack/latest/meta_data.json, which its router's node answers itself; one after the other, as when cloud-init starts; what etcd says of the VM is remembered meanwhile",
		}}},
	}
}

// maxRequests is how often a VM asks. That is within the burst that it may make, and so is what it asked before.
const maxRequests = 50

func measureMetadata(ctx context.Context, b *bench, got samples) error {
	if _, err := b.outside(ctx); err != nil {
		return err
	}
	s, err := b.segment(ctx, "10.6.0.0/24", true)
	if err != nil {
		return err
	}
	vm, err := b.guest(ctx, s, "cmp1")
	if err != nil {
		return err
	}
	r, err := b.router(ctx, s)
	if err != nil {
		return err
	}
	if err := b.reach(ctx, weftv1.State_STATE_ACTIVE, []guest{vm}, func() error { return b.lab.Plug(ctx, vm.VM) }); err != nil {
		return err
	}
	if err := until(ctx, "metadata is served", func() (bool, error) {
		_, err := askMetadata(ctx, vm, 1)
		return err == nil, err
	}); err != nil {
		return err
	}
	took, err := askMetadata(ctx, vm, min(10*b.n, maxRequests))
	if err != nil {
		return err
	}
	for _, t := range took {
		got.took("metadata", t)
	}
	return b.removeRouter(ctx, r, s)
}

// askMetadata asks from inside a VM, and gives how long each answer took.
func askMetadata(ctx context.Context, vm guest, times int) ([]time.Duration, error) {
	var out []time.Duration
	err := vm.Do(func() error {
		for range times {
			took, err := askOnce(ctx)
			if err != nil {
				return err
			}
			out = append(out, took)
		}
		return nil
	})
	return out, err
}

// askOnce asks from the network namespace of the calling thread.
func askOnce(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp4", "169.254.169.254:80")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, "GET /openstack/latest/meta_data.json HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(c)
	took := time.Since(began)
	if err == nil && !strings.HasPrefix(string(answer), fmt.Sprintf("HTTP/1.1 %d ", http.StatusOK)) {
		err = fmt.Errorf("answered %.200q", answer)
	}
	return took, err
}
