package netns

import (
	"errors"
	"fmt"
	"slices"
)

// setting is a sysctl with a value.
type setting struct{ name, value string }

// silence are the settings of a namespace that neither forwards nor answers who asks for its addresses or whether it is there
// (ip-sysctl.rst: ip_forward, arp_ignore, icmp_echo_ignore_all).
func silence() []setting {
	return []setting{{ipForward, "0"}, {"net.ipv4.conf.all.arp_ignore", "8"}, {"net.ipv4.icmp_echo_ignore_all", "1"}}
}

// Mute has an owned namespace say nothing from when it returns, whatever still reaches it: at once, where flows that are taken
// away are remembered by Open vSwitch's datapath for a moment. The function that it returns puts back what was before; call
// it once. Whoever dies before that leaves a namespace that Prepare and Forward set right. On an error nothing has changed.
func (m *Manager) Mute(name string) (unmute func() error, err error) {
	var before []setting
	unmute = func() error {
		return m.Run(name, func() error { return m.set(before) })
	}
	err = m.Run(name, func() error {
		for _, s := range silence() {
			have, err := readSysctl(s.name)
			if err == nil && have != s.value {
				before = append(before, setting{s.name, have})
				err = m.set([]setting{s})
			}
			if err != nil {
				return errors.Join(err, m.set(before))
			}
		}
		slices.Reverse(before) // forwarding comes last
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: mute: %w", name, err)
	}
	return unmute, nil
}

// set writes settings in the calling thread's namespace.
func (m *Manager) set(settings []setting) error {
	var errs []error
	for _, s := range settings {
		m.writes.Add(1)
		errs = append(errs, writeSysctl(s.name, s.value))
	}
	return errors.Join(errs...)
}
