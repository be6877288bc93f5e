package lab

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/e2e/lab/hostinit"
)

// Lab is a handle on a lab that is up. It holds no state of its own: see the package comment.
type Lab struct {
	name string
	dir  string
	log  *slog.Logger
}

// Host is a handle on one host; its Space is the host itself. Info is as of when the handle was made.
type Host struct {
	Space
	Info HostInfo
}

// BecomeHost turns the process into pid 1 of a simulated host if it was started as one, and then never returns; in any
// other process it does nothing. It must be the first call of main or TestMain.
func BecomeHost() {
	if len(os.Args) < 2 || os.Args[1] != hostinit.Argument {
		return
	}
	if err := hostinit.Run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this process is a host, its caller's main must not go on
	}
	os.Exit(0) //nolint:forbidigo // likewise
}

// Open finds a lab that was brought up, by this process or another. ErrNotFound when there is none.
func Open(name string, log *slog.Logger) (*Lab, error) {
	l, err := handle(name, log)
	if err != nil {
		return nil, err
	}
	_, err = l.load()
	return l, err
}

func handle(name string, log *slog.Logger) (*Lab, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Lab{name: name, dir: filepath.Join(Root, name), log: log}, nil
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.name }

// Dir is the lab's folder.
func (l *Lab) Dir() string { return l.dir }

// operationLock is held by whoever changes the lab as a whole: up, down, power.
func (l *Lab) operationLock() string { return filepath.Join(l.dir, "operation.lock") }

func (l *Lab) stateFile() string { return filepath.Join(l.dir, "lab.json") }

// Bin is the folder of the binaries that the lab's hosts run.
func (l *Lab) Bin() (string, error) {
	s, err := l.load()
	if err != nil {
		return "", err
	}
	return s.Bin, nil
}

// Hosts describes every host, outside ones included, in a stable order.
func (l *Lab) Hosts() ([]HostInfo, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(s.Hosts, func(h HostInfo) bool { return h.Kind == switchKind }), nil
}

// Host finds a host by name: ctl1, etcd1, net1, cmp1, out1, ….
func (l *Lab) Host(name string) (*Host, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	h, err := s.host(name)
	if err != nil {
		return nil, err
	}
	return &Host{Space: l.space(name, ""), Info: *h}, nil
}

// External finds the outside host of a physical network: ext1, ext2, ….
func (l *Lab) External(network string) (*External, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	for _, h := range s.Hosts {
		if _, ok := h.Link(network); ok && h.Kind == Outside {
			return &External{Host: Host{Space: l.space(h.Name, ""), Info: h}, network: network}, nil
		}
	}
	return nil, fmt.Errorf("external network %q of lab %s: %w", network, l.name, ErrNotFound)
}

// Switch is the place where the cables of all hosts meet: devices named <host>-underlay, <host>-mgmt, <host>-tenant,
// <host>-ext1, … carry what that host sends and receives.
func (l *Lab) Switch() Space { return l.space(switchHost, "") }

// Namespace is a named network namespace of the host (qrouter-…, qdhcp-…), which need not exist yet.
func (h *Host) Namespace(name string) Space { return h.lab.space(h.host, name) }

func (l *Lab) space(host, netns string) Space { return Space{lab: l, host: host, netns: netns} }

func (l *Lab) spec(host string) hostinit.Spec { return hostinit.Spec{Lab: l.dir, Name: host} }

// socket is where a controller's API answers, on the machine and inside the controller's host alike.
func (l *Lab) socket(controller string) string {
	return filepath.Join(l.spec(controller).Dir(), "api.sock")
}

// Server is the address of the lab's API as clients take it: one `unix:<path>` per controller, separated by commas.
func (l *Lab) Server() (string, error) {
	s, err := l.load()
	if err != nil {
		return "", err
	}
	var sockets []string
	for _, h := range s.Hosts {
		if h.Kind == Controller {
			sockets = append(sockets, "unix:"+l.socket(h.Name))
		}
	}
	return strings.Join(sockets, ","), nil
}

// Env is what a shell or a child process needs so that `weft` talks to the lab: WEFT_SERVER, WEFT_TLS_DIR, and PATH with
// the lab's binaries first.
func (l *Lab) Env() (map[string]string, error) {
	server, err := l.Server()
	if err != nil {
		return nil, err
	}
	bin, err := l.Bin()
	if err != nil {
		return nil, err
	}
	path := os.Getenv("PATH")
	if !slices.Contains(filepath.SplitList(path), bin) {
		path = bin + string(filepath.ListSeparator) + path
	}
	authority, err := l.Authority()
	if err != nil {
		return nil, err
	}
	return map[string]string{"WEFT_SERVER": server, "WEFT_TLS_DIR": authority.Folder(admin), "WEFT_LAB": l.name, "PATH": path}, nil
}

// Names lists the labs that have left traces on the machine, up or broken.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Root)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() || !nameForm.MatchString(e.Name()) }) {
		names = append(names, e.Name())
	}
	return names, nil
}
