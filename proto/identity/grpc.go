package identity

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Dialing makes gRPC connections that the credential speaks for, to servers of some roles; the name that is checked is
// that of the connection's authority or, where a resolver gives one, of the address. Unix sockets, which their files'
// permissions protect, are used as they are.
func (c *Credential) Dialing(roles ...Role) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c.Client("", roles...)), c, roles}
}

// Serving takes gRPC connections of callers who have one of the roles, and those of unix sockets as they are.
func (c *Credential) Serving(roles ...Role) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c.Server(roles...)), c, roles}
}

// ServingAnybody is Serving, but callers who show no certificate are let in too, or one of a trusted authority whose subject is
// no identity's: the server has to ask who they are.
func (c *Credential) ServingAnybody(roles ...Role) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c.server(tls.VerifyClientCertIfGiven, orNobody(expect(roles)))), c, roles}
}

// transport is TLS with the credential as it is at each handshake, but for unix sockets.
type transport struct {
	credentials.TransportCredentials
	c     *Credential
	roles []Role
}

// ClientHandshake is as in credentials.TransportCredentials.
func (t transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if local(conn) {
		return insecure.NewCredentials().ClientHandshake(ctx, authority, conn)
	}
	return credentials.NewTLS(t.c.Client("", t.roles...)).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is as in credentials.TransportCredentials.
func (t transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if local(conn) {
		return insecure.NewCredentials().ServerHandshake(conn)
	}
	return t.TransportCredentials.ServerHandshake(conn)
}

// Clone is as in credentials.TransportCredentials.
func (t transport) Clone() credentials.TransportCredentials { return t }

func local(conn net.Conn) bool { return conn.LocalAddr().Network() == "unix" }
