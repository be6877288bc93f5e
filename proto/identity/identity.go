// Package identity says who is who in a fleet: what a certificate speaks for, and a process's own certificate, which it
// goes on using when its files change. It makes TLS configurations out of them and listens to and dials nobody; it issues
// nothing (package pki does), and what somebody may do with the API or in etcd is not decided here.
//
// # Subjects
//
// A certificate speaks for the one identity that its subject's common name spells: "<role>:<name>", such as "node:net1".
// Nothing else of the subject counts, but for a user's membership. The role is part of the common name since that is all that etcd goes by (etcd,
// "Role-based access control", client certificates): a node called root must not be etcd's root.
//
// # Files
//
// A credential is a folder with the files of a Kubernetes TLS secret, PEM each:
//
//	ca.crt   the authorities that are trusted, one or several (while one follows another)
//	tls.crt  the own certificate, and what leads from it to an authority
//	tls.key  its key (PKCS #8, EC or RSA), mode 0600
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/proto/model"
)

// Role is what an identity is in the fleet.
type Role string

// The roles.
const (
	Controller Role = "controller" // a weft-controller; it also serves the etcd that it embeds
	Node       Role = "node"       // a weft-agent; the name is the node's
	Etcd       Role = "etcd"       // a member of the etcd cluster
	Admin      Role = "admin"      // a person or program that may do everything
	User       Role = "user"       // one that may do what their membership lets them
)

// Roles lists them.
func Roles() []Role { return []Role{Controller, Node, Etcd, Admin, User} }

// Identity is who somebody is. The zero value is nobody.
type Identity struct {
	Role Role
	Name string
}

// String is the common name: "<role>:<name>".
func (i Identity) String() string { return string(i.Role) + ":" + i.Name }

// ErrStranger tells that a certificate is not of this fleet, or not of somebody who is expected.
var ErrStranger = errors.New("not who is expected")

// Parse reads a common name. The error wraps ErrStranger.
func Parse(commonName string) (Identity, error) {
	role, name, _ := strings.Cut(commonName, ":")
	id := Identity{Role(role), name}
	if err := id.Check(); err != nil {
		return Identity{}, fmt.Errorf("common name %q: %w: %w", commonName, ErrStranger, err)
	}
	return id, nil
}

// Check says what is wrong with an identity.
func (i Identity) Check() error {
	switch {
	case !slices.Contains(Roles(), i.Role):
		return fmt.Errorf("role %q is none of %v", i.Role, Roles())
	case !model.ValidNodeName(i.Name):
		return fmt.Errorf("name %q: use letters, digits, '-' and '.', at most 63", i.Name)
	}
	return nil
}

// Of is who a certificate speaks for, whoever has issued it. The error wraps ErrStranger.
func Of(certificate *x509.Certificate) (Identity, error) {
	return Parse(certificate.Subject.CommonName)
}

// Peer is who is at the other end of a connection whose handshake has verified the certificate.
func Peer(state tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("the other end has shown no certificate: %w", ErrStranger)
	}
	return Of(state.PeerCertificates[0])
}
