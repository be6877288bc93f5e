package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Namespace is a namespace held open. The kernel gives the number of a freed namespace to the next new one at once, so a
// number that is merely remembered may soon mean a stranger's: membership can be asked only of what is held.
type Namespace struct {
	file *os.File
	kind string // a name under /proc/<pid>/ns: mnt, net, pid, … (namespaces(7))
}

// Hold opens a namespace of exactly that process; ErrGone when the process has ended. The caller closes it.
func (id ID) Hold(kind string) (*Namespace, error) {
	n, err := HoldPath(kind, fmt.Sprintf("/proc/%d/ns/%s", id.PID, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	if !id.Alive() { // the pid may have meant another process when it was opened
		n.Close()
		return nil, ErrGone
	}
	return n, nil
}

// HoldPath opens the namespace of that kind which a file stands for, such as one that `ip netns add` made.
func HoldPath(kind, path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hold %s namespace: %w", kind, err)
	}
	return &Namespace{file: file, kind: kind}, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() { n.file.Close() }

// Same tells whether both are one namespace.
func (n *Namespace) Same(other *Namespace) (bool, error) {
	own, err := n.file.Stat()
	if err != nil {
		return false, fmt.Errorf("identify %s namespace: %w", n.kind, err)
	}
	others, err := other.file.Stat()
	if err != nil {
		return false, fmt.Errorf("identify %s namespace: %w", other.kind, err)
	}
	return os.SameFile(own, others), nil
}

// Members are the live processes in the namespace.
func (n *Namespace) Members() ([]Process, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	held, err := n.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("identify %s namespace: %w", n.kind, err)
	}
	var members []Process
	for _, p := range all {
		its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", p.PID, n.kind))
		if err == nil && os.SameFile(held, its) { // an error: it ended meanwhile
			members = append(members, p)
		}
	}
	return members, nil
}
