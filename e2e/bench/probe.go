package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
)

// probeEvery is the distance of two probes.
const probeEvery = 10 * time.Millisecond

// warmUp is how long a probe runs before the clock does: the first packets of a process take longer.
const warmUp = 30 * time.Millisecond

// timed waits some probes and a random part of the distance between two, so that the act falls anywhere between them,
// then acts and returns how long after its begin the channel was closed.
func timed(ctx context.Context, answered <-chan struct{}, act func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-answered:
		return 0, errors.New("the probe was answered before the act")
	case <-time.After(warmUp + rand.N(probeEvery)):
	}
	began := time.Now()
	acted := make(chan error, 1)
	go func() { acted <- act() }()
	var took time.Duration
	for answered != nil {
		select {
		case <-answered:
			took, answered = time.Since(began), nil
		case err := <-acted:
			if err != nil {
				return 0, err
			}
			acted = nil
		case <-ctx.Done():
			return 0, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
	if acted == nil {
		return took, nil
	}
	return took, <-acted
}

// firstPing acts while a place sends echoes, each a flow of its own, and returns the time from the act to the first answer.
func firstPing(ctx context.Context, from lab.Space, to netip.Addr, act func() error) (time.Duration, error) {
	run, err := from.StartPing(ctx, echo.Options{
		Destination: to, Interval: probeEvery, Identity: echo.NewFlows, Wait: time.Millisecond,
	})
	if err != nil {
		return 0, err
	}
	defer run.Stop()
	took, err := timed(ctx, run.FirstAnswer(), act)
	if err != nil {
		return 0, fmt.Errorf("ping %s from %s: %w", to, from, err)
	}
	return took, nil
}

// silent waits until an address no longer answers.
func silent(ctx context.Context, from lab.Space, to netip.Addr) error {
	return until(ctx, to.String()+" is silent", func() (bool, error) {
		stats, err := from.Ping(ctx, to, echo.Options{Count: 1, Wait: 20 * time.Millisecond})
		return err == nil && stats.Received == 0, err
	})
}

// sweep sends an echo to every address that has not answered, every 10 ms, and returns when all have.
func sweep(ctx context.Context, from lab.Space, to []netip.Addr) error {
	var conn *net.IPConn
	err := from.Do(func() (err error) {
		conn, err = net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
		return err
	})
	if err != nil {
		return fmt.Errorf("open a raw socket in %s: %w", from, err)
	}
	defer func() { _ = conn.Close() }() // only read from
	missing := map[netip.Addr]bool{}
	for _, a := range to {
		missing[a] = true
	}
	token := rand.Uint64()
	for deadline := time.Now().Add(patience); len(missing) > 0; {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%d of %d addresses do not answer", len(missing), len(to))
		}
		for a := range missing {
			if err := sendEcho(conn, a, token); err != nil {
				return fmt.Errorf("ping %s: %w", a, err)
			}
		}
		if err := answers(conn, token, missing); err != nil {
			return err
		}
	}
	return nil
}

func sendEcho(conn *net.IPConn, to netip.Addr, token uint64) error {
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(token & 0xffff), Data: binary.BigEndian.AppendUint64(nil, token)}}
	packet, err := message.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err = conn.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil && !os.IsTimeout(err) {
		return nil //nolint:nilerr // the neighbour is not known yet; the next round asks again
	}
	return err
}

// answers takes those who answer within the distance of two probes off the missing.
func answers(conn *net.IPConn, token uint64, missing map[netip.Addr]bool) error {
	if err := conn.SetReadDeadline(time.Now().Add(probeEvery)); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for len(missing) > 0 {
		n, from, err := conn.ReadFromIP(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			continue // an ICMP error; the echo stays unanswered
		}
		message, err := icmp.ParseMessage(1, buffer[:n]) // protocol number of ICMP (RFC 792)
		if err != nil || message.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		body, ok := message.Body.(*icmp.Echo)
		if ok && len(body.Data) >= 8 && binary.BigEndian.Uint64(body.Data) == token {
			address, _ := netip.AddrFromSlice(from.IP.To4())
			delete(missing, address)
		}
	}
	return nil
}

// firstOffer acts while a VM asks by DHCP for the address of a MAC, every 10 ms, and returns the time from the act to the
// first offer. The MAC may be another's: the request names it as a relay's would (RFC 2131, chaddr), and the answer is
// broadcast.
func firstOffer(ctx context.Context, from lab.Space, mac string, act func() error) (time.Duration, error) {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return 0, err
	}
	var conn net.PacketConn
	err = from.Do(func() (err error) {
		conn, err = nclient4.NewRawUDPConn(lab.VMDevice, nclient4.ClientPort)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open a DHCP socket in %s: %w", from, err)
	}
	asking, stop := context.WithCancel(ctx)
	offered, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); discover(asking, conn, hardware) }()
	go awaitOffer(conn, hardware, offered)
	took, err := timed(ctx, offered, act)
	stop()
	<-done
	_ = conn.Close() // ends awaitOffer if it still waits
	if err != nil {
		return 0, fmt.Errorf("DHCP for %s from %s: %w", mac, from, err)
	}
	return took, nil
}

// discover sends DHCPDISCOVER until the context ends.
func discover(ctx context.Context, conn net.PacketConn, mac net.HardwareAddr) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true)); err == nil {
			_, _ = conn.WriteTo(m.ToBytes(), nclient4.DefaultServers) // what is lost is sent again
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// awaitOffer closes offered at the first DHCPOFFER for the MAC; it ends without when the connection is closed.
func awaitOffer(conn net.PacketConn, mac net.HardwareAddr, offered chan<- struct{}) {
	buffer := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(buffer[:n])
		if err == nil && m.MessageType() == dhcpv4.MessageTypeOffer && m.ClientHWAddr.String() == mac.String() {
			close(offered)
			return
		}
	}
}
