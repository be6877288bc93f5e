// Package wire is what passes between a node's agent and its metadata proxy, and nothing of what either makes of it.
//
// The agent directs the proxy over a Unix socket of type SOCK_SEQPACKET (unix(7)) that root alone can reach: one message in
// JSON per packet, one reply or several to each, and listening sockets as SCM_RIGHTS beside them. The agent makes the socket
// and the proxy listens on it, so that SO_PEERCRED names the proxy to every later agent.
//
// The proxy asks the agent who a guest is by HTTP over another Unix socket: POST of a Question to AskPath, in JSON; the
// answer is a guest.Guest in JSON, or a status: 404 when nobody has that address there, 503 when it can't be said now.
package wire

import (
	"cmp"
	"net/netip"
)

// AskPath is where questions are posted.
const AskPath = "/guest"

// MaxAnswer bounds an answer in bytes: user data and keys of the largest size, in JSON, with room to spare.
const MaxAnswer = 1 << 20

// Place is where guests are listened to: one router's namespace or one network's DHCP namespace. One of the two is set.
type Place struct {
	Router  string `json:"router,omitempty"`
	Network string `json:"network,omitempty"`
}

// String is the place for people.
func (p Place) String() string {
	if p.Router != "" {
		return "router " + p.Router
	}
	return "network " + p.Network
}

// Compare orders places.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Router, q.Router), cmp.Compare(p.Network, q.Network))
}

// Listener is one listening socket: where it is, in which network namespace (the inode of its nsfs file) and bound to what.
type Listener struct {
	Place
	Inode   uint64         `json:"inode"`
	Address netip.AddrPort `json:"address"`
}

// Question asks who has an address at a place.
type Question struct {
	Place
	Source netip.Addr `json:"source"`
}

// Hello is what a proxy says of itself.
type Hello struct {
	// Program identifies the file that it runs, as ProgramID gives it; Args are its arguments.
	Program string   `json:"program"`
	Args    []string `json:"args"`
}

// Counts are requests since the proxy began, by what came of them.
type Counts map[string]uint64

// verb is what a request wants done.
type verb string

const (
	hello   verb = "hello"
	list    verb = "list"
	listen  verb = "listen"
	shut    verb = "close"
	release verb = "release"
	counts  verb = "counts"
)

// request is a message to the proxy. A listening socket goes with listen.
type request struct {
	Do       verb     `json:"do"`
	Listener Listener `json:"listener,omitzero"`
}

// reply is a message from the proxy. A listening socket goes with each reply to release but the last.
type reply struct {
	Error    string   `json:"error,omitempty"`
	Hello    *Hello   `json:"hello,omitempty"`
	Counts   Counts   `json:"counts,omitempty"`
	Listener Listener `json:"listener,omitzero"`
	More     bool     `json:"more,omitempty"` // another reply follows; this one holds a listener
}
