package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/lease"
)

func streams() []measurement {
	between := func(what string) string {
		return "one TCP stream of 2 s " + what + "; octets received over the time in which they were"
	}
	return []measurement{{"streams", measureStreams, []figure{
		{ID: "tcp-bare", Name: "1 TCP stream, bare NORMAL bridge", Unit: "Mbit/s", Between: between("between two VMs on a userspace bridge of one host without weft")},
		{ID: "tcp-same", Name: "1 TCP stream, same host", Unit: "Mbit/s", Between: between("between two VMs of one network on cmp1")},
		{ID: "tcp-across", Name: "1 TCP stream, across hosts (VXLAN)", Unit: "Mbit/s", Between: between("from cmp1 to cmp2, one network")},
		{ID: "tcp-router", Name: "1 TCP stream, through a router", Unit: "Mbit/s", Between: between("from cmp1 to another network's VM on cmp2, by a router on a network node")},
	}}}
}

// streamTime is how long a stream is sent.
const streamTime = 2 * time.Second

func measureStreams(ctx context.Context, b *bench, got samples) error {
	if _, err := b.outside(ctx); err != nil {
		return err
	}
	one, err := b.segment(ctx, "10.9.0.0/24", true)
	if err != nil {
		return err
	}
	other, err := b.segment(ctx, "10.10.0.0/24", true)
	if err != nil {
		return err
	}
	var vms []guest
	for _, at := range []struct {
		segment
		node string
	}{{one, "cmp1"}, {one, "cmp1"}, {one, "cmp2"}, {other, "cmp2"}} {
		g, err := b.plugged(ctx, at.segment, at.node)
		if err != nil {
			return err
		}
		vms = append(vms, g)
	}
	r, err := b.router(ctx, one, other)
	if err != nil {
		return err
	}
	bare, err := b.bareVMs(ctx)
	if err != nil {
		return err
	}
	for range min(b.n, 3) {
		for _, s := range []struct {
			id       string
			from, to guest
		}{{"tcp-bare", bare[0], bare[1]}, {"tcp-same", vms[0], vms[1]}, {"tcp-across", vms[0], vms[2]}, {"tcp-router", vms[0], vms[3]}} {
			rate, err := stream(ctx, s.from.Space, s.to.Space, s.to.address)
			if err != nil {
				return fmt.Errorf("%s: %w", s.id, err)
			}
			got.add(s.id, rate)
		}
	}
	h, err := b.lab.Host("cmp1")
	if err != nil {
		return err
	}
	return errors.Join(b.removeRouter(ctx, r, one, other), b.deleteBare(ctx, h))
}

// bareVMs are two VMs on a bridge of cmp1 that weft has nothing to do with.
func (b *bench) bareVMs(ctx context.Context) ([]guest, error) {
	h, err := b.lab.Host("cmp1")
	if err != nil {
		return nil, err
	}
	if err := b.addBare(ctx, h); err != nil {
		return nil, err
	}
	var out []guest
	for i := range 2 {
		address := netip.AddrFrom4([4]byte{10, 11, 0, byte(1 + i)})
		vms, err := b.prepare(ctx, []lab.VMSpec{{
			Name: b.name("bare"), Host: "cmp1", Port: lab.Port{ID: uuid.NewString(), MAC: fmt.Sprintf("02:42:00:00:02:%02x", i)},
			Addressing: lab.Static, Lease: lease.Lease{Address: netip.PrefixFrom(address, 24), MTU: 1450},
		}})
		if err != nil {
			return nil, err
		}
		if _, err := h.Exec(ctx, "ovs-vsctl", "--timeout=30", "add-port", bareBridge, vms[0].Device); err != nil {
			return nil, err
		}
		out = append(out, guest{VM: vms[0], address: address})
	}
	return out, nil
}

// stream sends over one TCP connection and returns the megabits per second received.
func stream(ctx context.Context, from, to lab.Space, address netip.Addr) (float64, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := from.AwaitPing(waiting, address); err != nil {
		return 0, err
	}
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(address, 5001).String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("listen in %s: %w", to, err)
	}
	defer func() { _ = listener.Close() }() // all that was to arrive has
	rates := make(chan float64, 1)
	go func() { rates <- receive(listener) }()
	if err := send(ctx, from, listener.Addr().String()); err != nil {
		return 0, fmt.Errorf("send from %s: %w", from, err)
	}
	select {
	case rate := <-rates:
		return rate, nil
	case <-waiting.Done():
		return 0, fmt.Errorf("no end of the stream at %s: %w", to, waiting.Err())
	}
}

// send writes as fast as it can for streamTime.
func send(ctx context.Context, from lab.Space, to string) error {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{FallbackDelay: -1, Timeout: 5 * time.Second}).DialContext(ctx, "tcp4", to)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	chunk := make([]byte, 128<<10)
	for began := stopwatch(); began() < streamTime; {
		if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

// receive reads one connection to its end; 0 when there is none.
func receive(l net.Listener) float64 {
	conn, err := l.Accept()
	if err != nil {
		return 0
	}
	defer conn.Close()
	buffer := make([]byte, 256<<10)
	total, began, last := 0, time.Now(), time.Now()
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			total, last = total+n, time.Now()
		}
		if err != nil {
			break
		}
	}
	return float64(total) * 8 / 1e6 / max(last.Sub(began).Seconds(), 1e-3)
}
