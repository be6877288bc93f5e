package controller_test

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/identitytest"
	"github.com/weft-sdn/weft/proto/identity/pki"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// gate is a controller whose callers show certificates.
type gate struct {
	*bench
	*replica
	pki       string
	authority *pki.Authority
	users     string // its file
}

// listed are people whom a file knows by their certificates' subjects, with quotation marks of YAML's around those.
const listed = `users:
- {name: alice, role: member, projects: [blue], subjects: ['CN=Alice,OU=Research,O=Example\, Inc.']}
- {name: bob as well, role: reader, projects: [blue], subjects: ['CN=user:bob,OU=member,O=red']}
- {name: gone, role: nobody, subjects: ['CN=user:gone,OU=operator']}
`

func newGate(t *testing.T) *gate {
	g := &gate{bench: newBench(t), pki: filepath.Join(t.TempDir(), "pki"), users: filepath.Join(t.TempDir(), "users.yaml")}
	var err error
	g.authority, err = pki.Init(g.pki, pki.Given{})
	check(t, err)
	check(t, os.WriteFile(g.users, []byte(listed), 0o600))
	users, err := caller.LoadUsers(g.users)
	check(t, err)
	folder, err := g.authority.Issue(pki.Request{Identity: identity.Identity{Role: identity.Controller, Name: "ctl1"}})
	check(t, err)
	own, err := identity.Load(folder)
	check(t, err)
	g.replica = g.replicaWith(controller.Options{Credential: own, Users: users})
	return g
}

// with is a client that shows the certificate in a folder.
func (g *gate) with(folder string) client {
	g.Helper()
	c, err := identity.LoadCaller(folder)
	check(g, err)
	conn, err := grpc.NewClient("passthrough:///ctl1", grpc.WithTransportCredentials(c.Dialing(identity.Controller)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listener.DialContext(ctx) }))
	check(g, err)
	g.Cleanup(func() { _ = conn.Close() }) // it is only let go of
	return clientOn(conn)
}

func (g *gate) user(name, role string, projects ...string) string {
	g.Helper()
	folder, err := g.authority.Issue(pki.Request{
		Identity: identity.Identity{Role: identity.User, Name: name}, Member: identity.Membership{Role: role, Projects: projects},
	})
	check(g, err)
	return folder
}

func (g *gate) other(cn, unit string, projects ...string) string {
	g.Helper()
	name := pkix.Name{CommonName: cn, Organization: projects}
	if unit != "" {
		name.OrganizationalUnit = []string{unit}
	}
	return identitytest.Issue(g, g.pki, name, time.Hour)
}

func TestACertificateSaysWhoItsCallerIs(t *testing.T) {
	g := newGate(t)
	two := pkix.Name{CommonName: "user:two", OrganizationalUnit: []string{"operator", "member"}, Organization: []string{"red"}}
	for name, c := range map[string]struct {
		folder string
		// may are what the caller may do, of these: make groups in red and blue, and see nodes; nil: nothing at all.
		may []string
		// says is of the refusal when they may do nothing.
		says string
	}{
		"a member":                         {g.user("carol", "member", "red", "blue"), []string{"red", "blue"}, ""},
		"a reader":                         {g.user("dave", "reader", "red"), []string{"read"}, ""},
		"an operator of red":               {g.user("oscar", "operator", "red"), []string{"red", "nodes"}, ""},
		"one that the file knows":          {g.other("Alice", "Research", "Example, Inc."), []string{"blue"}, ""},
		"one whom the file knows better":   {g.user("bob", "member", "red"), []string{"read"}, ""},
		"one who is shut out":              {g.user("gone", "operator"), nil, "gone is shut out"},
		"one of another subject":           {g.other("Alice", "Sales", "Example, Inc."), nil, `CN=Alice,OU=Sales,O=Example\\, Inc.`},
		"an admin by another name":         {g.other("user:root", "admin", "red"), nil, "nobody"},
		"a user without a role":            {g.other("user:none", "", "red"), nil, "nobody"},
		"a user with two roles":            {identitytest.Issue(t, g.pki, two, time.Hour), nil, "nobody"},
		"a user of what can't be projects": {g.other("user:odd", "member", "a/b"), nil, "nobody"},
	} {
		client := g.with(c.folder)
		var got []string
		note := func(what string, err error) {
			switch code := status.Code(err); {
			case err == nil:
				got = append(got, what)
			case c.may == nil && (code != codes.Unauthenticated || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%s, %s: %v", name, what, err)
			case c.may != nil && code != codes.PermissionDenied:
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for _, project := range []string{"red", "blue"} {
			note(project, only(client.CreateSecurityGroup(g.context(), &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "x", Project: project}})))
		}
		note("nodes", only(client.ListNodes(g.context(), &weftv1.ListNodesRequest{})))
		if len(got) == 0 {
			note("read", only(client.ListNetworks(g.context(), &weftv1.ListNetworksRequest{})))
		}
		if !slices.Equal(got, c.may) {
			t.Errorf("%s may %v, want %v", name, got, c.may)
		}
	}
}

func TestACertificateThatEndsEndsWhatItsConnectionsMayDo(t *testing.T) {
	g := newGate(t)
	var client client
	for life := time.Second; ; life *= 2 { // as short as it may be for this machine
		client = g.with(identitytest.Issue(t, g.pki, pkix.Name{CommonName: "admin:brief"}, life))
		err := only(client.ListNodes(g.context(), &weftv1.ListNodesRequest{}))
		if err == nil {
			break
		}
		if life > deadline/2 {
			t.Fatal(err)
		}
	}
	g.eventually("the certificate ends", func() bool {
		err := only(client.ListNodes(g.context(), &weftv1.ListNodesRequest{}))
		return status.Code(err) == codes.Unauthenticated && strings.Contains(err.Error(), "has expired since")
	})
}

func TestWhoIsShutOutOfAFileThatIsFollowedIsShutOutAtOnce(t *testing.T) {
	g := newGate(t)
	client := g.with(g.user("eve", "member", "red"))
	list := func() error { return only(client.ListNetworks(g.context(), &weftv1.ListNetworksRequest{})) }
	check(t, list())
	check(t, os.WriteFile(g.users, fmt.Append(nil, listed, "- {name: eve, role: nobody, subjects: ['CN=user:eve,OU=member,O=red']}\n"), 0o600))
	g.eventually("eve is shut out", func() bool { return status.Code(list()) == codes.Unauthenticated })
}
