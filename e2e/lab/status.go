package lab

import (
	"errors"

	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// Status is a lab at one moment.
type Status struct {
	Name  string       `json:"name"`
	Hosts []HostStatus `json:"hosts"`
	VMs   []VMInfo     `json:"vms"`
}

// HostStatus is one host at one moment.
type HostStatus struct {
	HostInfo
	Power   string         `json:"power"` // "on", "off", or "dead" when its pid 1 ended without PowerOff
	Daemons []DaemonStatus `json:"daemons"`
	Cuts    []string       `json:"cuts"` // networks that Cut took from it, or CutCarrier: "ext1 (no carrier)"
}

// DaemonStatus tells of a daemon that has at least one live process.
type DaemonStatus struct {
	Daemon Daemon `json:"daemon"`
	Count  int    `json:"count"`
	Paused bool   `json:"paused"` // one of its processes is held by SIGSTOP
}

// Status looks at every host and its processes.
func (l *Lab) Status() (Status, error) {
	s, err := l.load()
	if err != nil {
		return Status{}, err
	}
	status := Status{Name: s.Name, VMs: s.VMs}
	for _, h := range s.Hosts[1:] { // without the switch
		host, err := s.hostStatus(h)
		if err != nil {
			return Status{}, err
		}
		status.Hosts = append(status.Hosts, host)
	}
	return status, nil
}

func (s *state) hostStatus(h HostInfo) (HostStatus, error) {
	status := HostStatus{HostInfo: h, Power: "off"}
	for _, c := range s.Cuts {
		if c.Host == h.Name {
			text := c.Network
			if c.Carrier {
				text += " (no carrier)"
			}
			status.Cuts = append(status.Cuts, text)
		}
	}
	if !h.On() {
		return status, nil
	}
	ns, err := h.Hold("pid")
	if errors.Is(err, procfs.ErrGone) {
		status.Power = "dead"
		return status, nil
	}
	if err != nil {
		return status, err
	}
	defer ns.Close()
	members, err := ns.Members()
	if err != nil {
		return status, err
	}
	status.Power = "on"
	for _, d := range Daemons() {
		if found := countDaemon(d, members); found.Count > 0 {
			status.Daemons = append(status.Daemons, found)
		}
	}
	return status, nil
}

func countDaemon(d Daemon, members []procfs.Process) DaemonStatus {
	found := DaemonStatus{Daemon: d}
	for _, p := range members {
		if p.Name() == d.program() {
			found.Count++
			found.Paused = found.Paused || p.Stopped()
		}
	}
	return found
}
