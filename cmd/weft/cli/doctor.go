package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	"github.com/weft-sdn/weft/proto/identity"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const doctorLong = `Look at what stands between you and the fleet, and at the fleet as its controllers see it: certificates, each controller, the
nodes. Each line says what is well, or what is wrong and what to do. It changes nothing, and exits with 1 when anything is
wrong. What nodes report of single objects, "weft port show" and the like say; what is stored, "weft check".`

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what is wrong with certificates, controllers and nodes", Long: doctorLong, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{app: a}
			d.credential()
			var nodes []proto.Message
			for _, server := range a.servers {
				if seen, ok := d.controller(cmd.Context(), server); ok {
					nodes = seen
				}
			}
			d.nodes(nodes)
			if d.wrong > 0 {
				return fmt.Errorf("%d things are wrong", d.wrong)
			}
			return nil
		},
	}
}

// doctor counts what is wrong as it says it.
type doctor struct {
	*app
	own   *identity.Credential // nil: none is needed, or none is there
	err   error                // why there is none
	wrong int
}

func (d *doctor) well(format string, args ...any) {
	fmt.Fprintln(d.env.Stdout, "ok     "+render.Clean(fmt.Sprintf(format, args...)))
}

func (d *doctor) bad(format string, args ...any) {
	d.wrong++
	fmt.Fprintln(d.env.Stdout, "WRONG  "+render.Clean(fmt.Sprintf(format, args...)))
}

// credential looks at the caller's own certificate.
func (d *doctor) credential() {
	if slices.ContainsFunc(d.servers, func(s string) bool { return !strings.HasPrefix(s, "unix:") }) {
		if d.own, d.err = d.app.credential(); d.err != nil {
			d.bad("%s", strings.ReplaceAll(d.err.Error(), "\n", "; "))
		}
	}
	if d.own == nil {
		return
	}
	for _, l := range d.own.Lifetimes() {
		d.lasts(l.Certificate, l)
	}
}

// lasts says how long a certificate does.
func (d *doctor) lasts(what string, l identity.Lifetime) {
	switch now := time.Now(); {
	case now.Before(l.NotBefore):
		d.bad("%s: the certificate begins %s: is the clock of this host right?", what, l.NotBefore.Format(time.RFC3339))
	case l.Soon(now):
		d.bad("%s: the certificate ends %s, left: %s; renew it: weft pki rotate certificates", what, l.Until.Format(time.RFC3339), left(l.Until))
	default:
		d.well("%s: the certificate lasts until %s", what, l.Until.Format(time.DateOnly))
	}
}

// controller asks one controller for the nodes; not ok when it does not answer.
func (d *doctor) controller(ctx context.Context, server string) (nodes []proto.Message, ok bool) {
	o := d.options()
	o.Servers, o.Timeout = []string{server}, min(d.timeout, doctorTime)
	o.Credential = func() (*identity.Credential, error) { return d.own, d.err }
	c, err := client.New(o)
	if err == nil {
		defer c.Close() //nolint:errcheck // nothing is pending
		if nodes, err = c.List(ctx, client.Node, client.Query{}); err == nil {
			d.well("controller %s answers", server)
			d.shown(ctx, server)
			return nodes, true
		}
	}
	d.bad("controller %s: %s", server, strings.ReplaceAll(err.Error(), "\n", "; "))
	return nil, false
}

// doctorTime is how long one controller may take.
const doctorTime = 3 * time.Second

// shown looks at the certificate that a controller shows.
func (d *doctor) shown(ctx context.Context, server string) {
	host, _, err := net.SplitHostPort(server)
	if d.own == nil || err != nil || strings.HasPrefix(server, "unix:") {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	config := d.own.Client(host, identity.Controller)
	config.NextProtos = []string{"h2"}
	var cert *x509.Certificate
	check := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		cert = state.PeerCertificates[0]
		return check(state)
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", server)
	if err != nil {
		d.bad("controller %s: %s", server, err)
		return
	}
	conn.Close()
	d.lasts(fmt.Sprintf("controller %s (%s)", server, cert.Subject.CommonName), identity.LifetimeOf(cert))
}

// nodes says which are not alive, and what they say is wrong.
func (d *doctor) nodes(nodes []proto.Message) {
	alive := 0
	for _, m := range nodes {
		n, ok := m.(*weftv1.Node)
		if !ok {
			continue
		}
		if n.GetAlive() {
			alive++
		} else {
			d.bad("node %s is not alive: is its weft-agent running, and does it reach etcd?", n.GetId())
		}
		for _, problem := range n.GetProblems() {
			d.bad("node %s: %s", n.GetId(), problem)
		}
	}
	if alive > 0 {
		d.well("%d of %d nodes are alive", alive, len(nodes))
	}
}
