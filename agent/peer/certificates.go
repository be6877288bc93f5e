package peer

import (
	"crypto/tls"

	"github.com/weft-sdn/weft/proto/identity"
)

// Certificates lets nodes in by their certificates, each as itself.
type Certificates struct{ Credential *identity.Credential }

// Client is the configuration for a connection that is made now to a node.
func (c Certificates) Client(node string) *tls.Config {
	return c.Credential.Client(node, identity.Node)
}

// Server is the configuration for connections of nodes; Verify says whether one is of the node that it says it is.
func (c Certificates) Server() *tls.Config { return c.Credential.Server(identity.Node) }

// Verify returns an error unless the other end is the node, by a certificate that is good now.
func (c Certificates) Verify(state tls.ConnectionState, node string) error {
	return c.Credential.Verify(state, identity.Identity{Role: identity.Node, Name: node})
}
