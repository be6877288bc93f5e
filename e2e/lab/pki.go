package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/controller/access"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
)

// admin is who looks at a lab from outside.
var admin = identity.Identity{Role: identity.Admin, Name: "lab"}

// issue makes the lab's certificate authority, a credential for each host that runs something and one for who looks at it.
func (l *Lab) issue(hosts []HostInfo) error {
	authority, err := pki.Init(l.pkiDir(), pki.Given{})
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.name, err)
	}
	requests := []pki.Request{{Identity: admin}}
	for _, h := range hosts {
		if id, ok := h.identity(); ok {
			requests = append(requests, pki.Request{Identity: id, Hosts: []string{h.Management.String()}})
		}
	}
	for _, r := range requests {
		if _, err := authority.Issue(r); err != nil {
			return fmt.Errorf("lab %s: certificate of %s: %w", l.name, r.Identity, err)
		}
	}
	return nil
}

// identity is who the host's process is.
func (h HostInfo) identity() (identity.Identity, bool) {
	role, ok := map[Kind]identity.Role{
		EtcdMember: identity.Etcd, Controller: identity.Controller, Network: identity.Node, Compute: identity.Node,
	}[h.Kind]
	return identity.Identity{Role: role, Name: h.Name}, ok
}

// restrict has etcd go by who is calling.
func (l *Lab) restrict(ctx context.Context, hosts []HostInfo) error {
	client, err := l.Etcd()
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing is pending
	group, granting := errgroup.WithContext(ctx)
	group.Go(func() error { return access.Grant(granting, client, admin) })
	for _, h := range hosts {
		if id, ok := h.identity(); ok && id.Role != identity.Etcd {
			group.Go(func() error { return access.Grant(granting, client, id) })
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("lab %s: %w", l.name, err)
	}
	if err := access.Enable(ctx, client, admin); err != nil {
		return fmt.Errorf("lab %s: %w", l.name, err)
	}
	return nil
}

func (l *Lab) pkiDir() string { return filepath.Join(l.dir, "pki") }

// tlsDir is where a host has its credential.
func (l *Lab) tlsDir(host string) string { return filepath.Join(l.spec(host).Dir(), "tls") }

// Authority is what the lab's certificates come from. What is done with it reaches a host by Carry.
func (l *Lab) Authority() (*pki.Authority, error) { return pki.Open(l.pkiDir()) }

// Credential is that of an admin.
func (l *Lab) Credential() (*identity.Credential, error) {
	authority, err := l.Authority()
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.name, err)
	}
	return identity.Load(authority.Folder(admin))
}

// Carry puts a host's credential, as it is now, where its process looks for it, one file after the other. It is done when
// the process starts, too. An error for a host that has none.
func (l *Lab) Carry(host string) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	h, err := s.host(host)
	if err != nil {
		return err
	}
	id, ok := h.identity()
	if !ok {
		return fmt.Errorf("host %s: credential %w", host, ErrNotFound)
	}
	authority, err := l.Authority()
	if err != nil {
		return err
	}
	from, to := authority.Folder(id), l.tlsDir(host)
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		whole := filepath.Join(to, "."+f.Name())
		if err := os.WriteFile(whole, text, 0o600); err != nil {
			return err
		}
		if err := os.Rename(whole, filepath.Join(to, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
