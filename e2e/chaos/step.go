package chaos

import (
	"fmt"
	"strings"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// Op is what a step does.
type Op string

// The operations on objects.
const (
	CreateNetwork   Op = "create network"
	DeleteNetwork   Op = "delete network"
	ToggleNetwork   Op = "set network up or down"
	CreateSubnet    Op = "create subnet"
	DeleteSubnet    Op = "delete subnet"
	CreatePort      Op = "create port"
	TogglePort      Op = "set port up or down"
	MovePort        Op = "name port's host"
	DeletePort      Op = "delete port"
	CreateRouter    Op = "create router"
	ToggleRouter    Op = "set router up or down"
	ResizeRouter    Op = "set router's ha"
	MoveRouter      Op = "move router"
	DeleteRouter    Op = "delete router"
	AddInterface    Op = "add interface"
	RemoveInterface Op = "remove interface"
	SetGateway      Op = "set gateway"
	ClearGateway    Op = "clear gateway"
	CreateFloating  Op = "create floating IP"
	MoveFloating    Op = "move floating IP"
	DeleteFloating  Op = "delete floating IP"
)

// The operations on VMs, hosts and what runs there. Each that breaks something has one that mends it.
const (
	Plug    Op = "plug VM"
	Unplug  Op = "unplug VM"
	Wait    Op = "wait"
	Kill    Op = "kill"
	Start   Op = "start"
	Pause   Op = "pause"
	Resume  Op = "resume"
	Cut     Op = "cut"
	Darken  Op = "cut with carrier"
	Heal    Op = "heal"
	Restart Op = "restart Open vSwitch"
	Reboot  Op = "reboot"
	Drain   Op = "drain"
	Undrain Op = "undrain"
)

// Step is one thing to do. Objects go by names of the run's own, never used again: what their ids are is no part of the
// sequence.
type Step struct {
	Op     Op
	Name   string // the object or VM
	Of, To string // the objects that it is about
	Host   string
	Daemon lab.Daemon
	Link   string
	Up     bool
	Number int
	For    time.Duration
}

// String is the step in a line.
func (s Step) String() string {
	parts := []string{string(s.Op)}
	for _, p := range []string{s.Name, s.Of, s.To, s.Host, string(s.Daemon), s.Link} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	switch {
	case strings.HasPrefix(string(s.Op), "set ") && strings.HasSuffix(string(s.Op), "down"):
		parts = append(parts, fmt.Sprint(s.Up))
	case s.Number != 0:
		parts = append(parts, fmt.Sprint(s.Number))
	case s.For != 0:
		parts = append(parts, s.For.String())
	}
	return strings.Join(parts, " ")
}
