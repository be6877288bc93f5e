package e2e_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"

	"google.golang.org/protobuf/proto"
)

// shoutType is the EtherType of what a shouting VM says: one for local experiments (IEEE 802, 0x88b5).
const shoutType = 0x88b5

// frame is an Ethernet frame with any number of VLAN tags (IEEE 802.1Q), the outermost first.
func frame(to, from net.HardwareAddr, tags ...uint16) []byte {
	out := append(append([]byte{}, to...), from...)
	for _, tag := range tags {
		out = binary.BigEndian.AppendUint16(out, 0x8100)
		out = binary.BigEndian.AppendUint16(out, tag)
	}
	out = binary.BigEndian.AppendUint16(out, shoutType)
	return append(out, "weft e2e: a frame that nobody may hear             "...)
}

// shouts are the frames of a VM that tries everything: broadcasts and multicasts, untagged, tagged with each of the VLANs and
// with priority only, and double-tagged with each pair of them.
func shouts(from net.HardwareAddr, vlans []uint16) [][]byte {
	broadcast, multicast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, net.HardwareAddr{0x01, 0, 0x5e, 0, 0, 0xfb}
	var out [][]byte
	for _, to := range []net.HardwareAddr{broadcast, multicast} {
		out = append(out, frame(to, from), frame(to, from, 0), frame(to, from, 0, 0))
		for _, v := range vlans {
			out = append(out, frame(to, from, v), frame(to, from, 0, v), frame(to, from, v|0xe000))
			for _, w := range vlans {
				out = append(out, frame(to, from, v, w))
			}
		}
	}
	return out
}

// shout has a guest send all that shouts gives, over and over, until stop is called, which fails when nothing was sent.
func (f *fleet) shout(g *guest, vlans ...uint16) (stop func()) {
	f.t.Helper()
	mac, err := net.ParseMAC(g.Spec.Port.MAC)
	f.must(err)
	return f.flood(g.Space, lab.VMDevice, shouts(mac, vlans))
}

// announce has a guest tell its address to all, as a DHCP client should, "to clear any outdated ARP cache entries" (RFC 2131
// section 4.4.1, RFC 5227 section 2.3): a neighbour may remember the address's holder before.
func (f *fleet) announce(g *guest) {
	f.t.Helper()
	mac, err := net.ParseMAC(g.Spec.Port.MAC)
	f.must(err)
	out := append(append(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	out = append(append(append(out, mac...), g.ip.AsSlice()...), 0, 0, 0, 0, 0, 0)
	out = append(out, g.ip.AsSlice()...)
	socket := f.socket(g.Space, lab.VMDevice)
	defer unix.Close(socket)
	_, err = unix.Write(socket, out)
	f.must(err)
}

// socket opens a raw socket on a device; the caller closes it.
func (f *fleet) socket(at lab.Space, device string) int {
	f.t.Helper()
	var socket int
	f.must(at.Do(func() (err error) {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}))
	return socket
}

// flood sends frames from a device over and over until stop is called, which fails when nothing was sent.
func (f *fleet) flood(at lab.Space, device string, frames [][]byte) (stop func()) {
	f.t.Helper()
	socket := f.socket(at, device)
	ctx, cancel := context.WithCancel(f.t.Context())
	var sending sync.WaitGroup
	sent := 0
	sending.Go(func() {
		defer unix.Close(socket)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if _, err := unix.Write(socket, frames[i%len(frames)]); err == nil {
				sent++
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	once := sync.OnceFunc(func() {
		cancel()
		sending.Wait()
	})
	f.t.Cleanup(once)
	return func() {
		once()
		if sent == 0 {
			f.t.Errorf("%s sent nothing", at)
		}
	}
}

// refusal waits until the controllers tell a node why an interface is not to be wired, or, with "", nothing more of it.
func (f *fleet) refusal(node, port, want string) {
	f.t.Helper()
	client := f.etcd()
	f.eventually(fmt.Sprintf("%s is told %q of port %s", node, want, port), func(ctx context.Context) error {
		out, err := client.Get(ctx, keys.HostObject(node, keys.KindPort, port))
		if err != nil {
			return err
		}
		b := &storev1.PortBinding{}
		if len(out.Kvs) > 0 {
			err = proto.Unmarshal(out.Kvs[0].Value, b)
		}
		if got := b.GetRefused(); err == nil && (want == "" && len(out.Kvs) > 0 || len(got) < len(want) || got[:len(want)] != want) {
			err = fmt.Errorf("it is told %q", got)
		}
		return err
	})
}

// untagged waits until a guest's interface has lost the tag that weft gave it.
func (f *fleet) untagged(g *guest) {
	f.t.Helper()
	f.eventually("the interface has no tag", func(ctx context.Context) error {
		out, err := f.host(g.Spec.Host).Exec(ctx, "ovs-vsctl", "get", "Port", g.Device, "tag", "external_ids")
		if err == nil && out != "[]\n{}\n" {
			err = errors.New(out)
		}
		return err
	})
}
