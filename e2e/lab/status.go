package lab

import (
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
	Cuts    []string       `json:"cuts"` // networks that Cut took from it
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
	all, err := procfs.List()
	if err != nil {
		return Status{}, err
	}
	status := Status{Name: s.Name, VMs: s.VMs}
	for _, h := range s.Hosts[1:] { // without the switch
		status.Hosts = append(status.Hosts, s.hostStatus(h, all))
	}
	return status, nil
}

func (s *state) hostStatus(h HostInfo, all []procfs.Process) HostStatus {
	status := HostStatus{HostInfo: h, Power: "off"}
	for _, c := range s.Cuts {
		if c.Host == h.Name {
			status.Cuts = append(status.Cuts, c.Network)
		}
	}
	if !h.On() {
		return status
	}
	ns, err := h.Namespace("pid")
	if err != nil || !h.Alive() {
		status.Power = "dead"
		return status
	}
	status.Power = "on"
	for _, d := range Daemons() {
		if found := countDaemon(d, ns, all); found.Count > 0 {
			status.Daemons = append(status.Daemons, found)
		}
	}
	return status
}

func countDaemon(d Daemon, pidNamespace string, all []procfs.Process) DaemonStatus {
	found := DaemonStatus{Daemon: d}
	for _, p := range all {
		if p.Name() != d.program() {
			continue
		}
		if ns, err := p.Namespace("pid"); err == nil && ns == pidNamespace {
			found.Count++
			found.Paused = found.Paused || p.Stopped()
		}
	}
	return found
}
