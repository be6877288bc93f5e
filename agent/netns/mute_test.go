package netns_test

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/netns"
)

// muteable is a router whose namespace forwards, with what its settings are.
func (h *host) muteable() (desired.Namespace, string) {
	h.t.Helper()
	want := h.router(h.link())
	want.Sysctls["net.ipv4.icmp_echo_ignore_all"] = "0"
	h.ensure(want)
	if _, err := h.Forward(h.t.Context(), want); err != nil {
		h.t.Fatal(err)
	}
	return want, h.settings()
}

func (h *host) settings() string {
	h.t.Helper()
	return h.in("sysctl", "net.ipv4.ip_forward", "net.ipv4.conf.all.arp_ignore", "net.ipv4.icmp_echo_ignore_all")
}

// neighbour has a namespace of its own take the outer end of a link, with the address 203.0.113.1.
func (h *host) neighbour(link string) *host {
	h.t.Helper()
	n := newHost(h.t)
	n.prepare(desired.Namespace{Name: n.name})
	h.run("ip", "link", "set", link, "netns", n.name)
	n.in("ip", "link", "set", link, "up")
	n.in("ip", "addr", "add", "203.0.113.1/24", "dev", link)
	return n
}

// gets reports whether a command in the namespace gets an answer.
func (h *host) gets(argv ...string) bool {
	h.t.Helper()
	err := exec.Command("ip", append([]string{"netns", "exec", h.name}, argv...)...).Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return err == nil
}

func TestAMutedNamespaceSaysNothingUntilItIsUnmuted(t *testing.T) {
	h := newHost(t)
	want, before := h.muteable()
	link := want.Links[0].Name
	n := h.neighbour(link)
	echo, arp := []string{"ping", "-c1", "-W1", "203.0.113.5"}, []string{"arping", "-c1", "-w1", "-I", link, "203.0.113.5"}
	if !n.gets(echo...) || !n.gets(arp...) {
		t.Fatal("it does not answer before")
	}
	unmute, err := h.Mute(h.name)
	if err != nil {
		t.Fatal(err)
	}
	if n.gets(echo...) || n.gets(arp...) || h.in("sysctl", "-n", "net.ipv4.ip_forward") != "0" {
		t.Error("it answers, or forwards")
	}
	if err := unmute(); err != nil {
		t.Fatal(err)
	}
	if after := h.settings(); after != before || !n.gets(echo...) {
		t.Errorf("it is not as it was: %s", after)
	}
}

// Who muted it has died.
func TestANamespaceThatWasLeftMutedIsSetRight(t *testing.T) {
	h := newHost(t)
	want, before := h.muteable()
	if _, err := h.Mute(h.name); err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.ensure(want)
	if _, err := h.Forward(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if after := h.settings(); after != before {
		t.Errorf("it is %s, want %s", after, before)
	}
}

func TestOnlyANamespaceOfWeftsIsMuted(t *testing.T) {
	h := newHost(t)
	if _, err := h.Mute(h.name); !errors.Is(err, netns.ErrAbsent) {
		t.Errorf("one that is not there: %v", err)
	}
}
