package netns_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffFindsWhatAStrangerChangedAndWritesNothing(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	absent := h.diff(want)
	if len(absent) != 1 || absent[0].Kind != "namespace" || absent[0].Actual != "" {
		t.Errorf("of an absent namespace: %v", absent)
	}
	h.ensure(want)
	if _, err := h.Forward(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	if d := h.diff(want); len(d) != 0 {
		t.Errorf("of what has just been made: %v", d)
	}

	h.in("ip", "addr", "del", "203.0.113.7/32", "dev", link)
	h.in("ip", "addr", "add", "192.0.2.1/32", "dev", link)
	h.in("ip", "route", "del", "198.51.100.0/24")
	h.in("ip", "route", "add", "198.51.100.128/25", "dev", link, "proto", "static")
	h.in("ip", "link", "set", link, "mtu", "1400", "address", "fa:16:3e:00:00:02")
	h.in("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.arp_ignore=2")
	h.in("ip", "link", "add", "theirs0", "type", "veth", "peer", "theirs1") // a stranger's, no difference
	h.in("ip", "route", "add", "192.0.2.128/25", "dev", link)               // protocol boot: a stranger's
	h.run("ip", "link", "set", link, "alias", "")

	writes := h.Writes()
	var got []string
	for _, d := range h.diff(want) {
		got = append(got, strings.ReplaceAll(strings.ReplaceAll(d.String(), h.name, "NS"), link, "LINK"))
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{
		"address NS/LINK: missing: 203.0.113.7/32",
		"address NS/LINK: surplus: 192.0.2.1/32",
		"link NS/LINK on the host: should be alias weft:NS, is alias ",
		"link NS/LINK: should be MAC fa:16:3e:00:00:01, is MAC fa:16:3e:00:00:02",
		"link NS/LINK: should be MTU 1450, is MTU 1400",
		"namespace NS: should be net.ipv4.conf.all.arp_ignore=1, is net.ipv4.conf.all.arp_ignore=2",
		"namespace NS: should be net.ipv4.ip_forward=1, is net.ipv4.ip_forward=0",
		"route NS/198.51.100.0/24: missing: dev LINK",
		"route NS/198.51.100.128/25: surplus: dev LINK",
	}, got); diff != "" {
		t.Errorf("differences:\n%s", diff)
	}
	if h.Writes() != writes {
		t.Errorf("%d writes", h.Writes()-writes)
	}

	h.ensure(want)
	if _, err := h.Forward(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	if d := h.diff(want); len(d) != 0 {
		t.Errorf("of what has been repaired: %v", d)
	}
}
