package e2e_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// wiretaps record what must not be seen of one sender: by guests, and on the cables of its host.
type wiretaps struct {
	f        *fleet
	captures map[string]*lab.Capture
}

// tapGuests records, at guests, others' shouts that a filter does not allow.
func (f *fleet) tapGuests(allowed string, guests ...*guest) *wiretaps {
	w := &wiretaps{f, map[string]*lab.Capture{}}
	for _, g := range guests {
		// The order matters: "vlan" moves the offsets of what comes behind it (pcap-filter(7)).
		filter := "not ether src " + g.Spec.Port.MAC
		if allowed != "" {
			filter += " and not (" + allowed + ")"
		}
		filter += fmt.Sprintf(" and (ether proto %#x or vlan)", shoutType)
		w.captures[g.String()] = f.capture(g.Space, lab.VMDevice, filter)
	}
	return w
}

// tapCables records what a host sends of one MAC on its cables, encapsulated or not.
func (w *wiretaps) tapCables(host, mac string) {
	w.f.t.Helper()
	w.captures[host+"'s underlay"] = w.f.tapUnderlay(host, mac)
	w.captures[host+"'s tenant trunk"] = w.f.capture(w.f.Switch(), host+"-tenant", "ether src "+mac)
}

// tapUnderlay records what a host sends of one MAC in VXLAN, whose inner source address begins 14 octets behind the UDP header
// (RFC 7348).
func (f *fleet) tapUnderlay(host, mac string) *lab.Capture {
	f.t.Helper()
	m, err := net.ParseMAC(mac)
	f.must(err)
	return f.capture(f.Switch(), host+"-underlay", fmt.Sprintf("udp port 4789 and udp[22:4] == 0x%x and udp[26:2] == 0x%x", []byte(m[:4]), []byte(m[4:])))
}

func (w *wiretaps) none(what string) {
	w.f.t.Helper()
	for name, c := range w.captures {
		w.f.none(c, fmt.Sprintf("%s at %s", what, name))
	}
}

// churn has networks come and go on a node, each with a VM, as fast as it can.
func (f *fleet) churn(rounds int, host string) {
	f.t.Helper()
	for i := range rounds {
		kind := []weftv1.NetworkType{
			weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_VLAN, weftv1.NetworkType_NETWORK_TYPE_GRE,
		}[i%3]
		n := f.network(&weftv1.Network{Name: fmt.Sprintf("churn-%d", i), Type: kind, PhysicalNetwork: map[bool]string{true: lab.Tenant}[i%3 == 1]})
		p := f.port(&weftv1.Port{Name: n.GetName(), NetworkId: n.GetId()})
		g := f.prepare(n.GetName(), host, p)
		tap := f.tapGuests("", g)
		f.plug(g)
		f.portState(p, weftv1.State_STATE_ACTIVE, "")
		tap.none("a stranger's frame")
		f.removeGuest(g)
		_, err := f.networks.DeleteNetwork(f.t.Context(), &weftv1.DeleteNetworkRequest{Id: n.GetId()})
		f.must(err)
	}
}

// TestNoFrameCrossesBetweenNetworksAtAnyMoment holds promise I7 against VMs that send what they should not.
func TestNoFrameCrossesBetweenNetworksAtAnyMoment(t *testing.T) {
	f := newFleet(t, "e2e-isolation", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	a, _ := f.vxlan("a", "10.10.0.0/24")
	b, _ := f.tenant("b", weftv1.NetworkType_NETWORK_TYPE_VLAN, "10.20.0.0/24")
	f.unfiltered(a, b)
	a1, a2 := f.guest("a1", "cmp1", a), f.guest("a2", "cmp2", a)
	b1, b2 := f.guest("b1", "cmp1", b), f.guest("b2", "cmp2", b)
	everybody := []*guest{a1, a2, b1, b2}
	// The local VLANs that cmp1 has given and is about to give, and a segment of the trunk.
	vlans := []uint16{1, 2, 3, 4, uint16(b.GetSegmentationId()), 1000}

	t.Run("a VM whose port is not wired reaches nobody and hears nobody", func(t *testing.T) {
		f := f.in(t)
		evil := f.prepare("evil", "cmp1", &weftv1.Port{Id: uuid.NewString(), MacAddress: "fa:16:3e:66:66:66"})
		f.plug(evil)
		// b1 broadcasts untagged meanwhile, so that there is something to hear; b2 may.
		talk := fmt.Sprintf("ether proto %#x and ether src %s", shoutType, b1.Spec.Port.MAC)
		taps := f.tapGuests(talk, everybody...)
		taps.tapCables("cmp1", evil.Spec.Port.MAC)
		taps.captures["evil"] = f.capture(evil.Space, lab.VMDevice, "not ether src "+evil.Spec.Port.MAC)
		heard := f.capture(b2.Space, lab.VMDevice, talk)
		stop, stopTalk := f.shout(evil, vlans...), f.shout(b1)
		f.churn(6, "cmp1")
		f.must(f.host("cmp1").Kill(t.Context(), lab.AgentDaemon))
		f.must(f.host("cmp1").Start(t.Context(), lab.AgentDaemon))
		f.churn(1, "cmp1")
		stop()
		stopTalk()
		taps.none("a frame of a port that is not wired, or to it")
		f.some(heard)
		f.must(evil.Remove(t.Context()))
	})

	t.Run("a wired VM reaches its own network only, and only untagged", func(t *testing.T) {
		f := f.in(t)
		own := f.capture(a2.Space, lab.VMDevice, fmt.Sprintf("ether proto %#x and ether src %s", shoutType, a1.Spec.Port.MAC))
		taps := f.tapGuests(fmt.Sprintf("ether proto %#x and ether src %s", shoutType, a1.Spec.Port.MAC), a2)
		for name, c := range f.tapGuests("", b1, b2).captures {
			taps.captures[name] = c
		}
		taps.captures["the trunk"] = f.capture(f.Switch(), "cmp1-tenant", "ether src "+a1.Spec.Port.MAC)
		wire := f.tapUnderlay("cmp1", a1.Spec.Port.MAC)
		stop := f.shout(a1, vlans...)
		f.churn(3, "cmp1")
		stop()
		taps.none("a frame of a1")
		f.some(own)
		f.some(wire) // and so would the others' have been seen
	})
}
