package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
)

func node(name string) identity.Identity { return identity.Identity{Role: identity.Node, Name: name} }

func start(t *testing.T) (*pki.Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := pki.Init(dir, pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

func issue(t *testing.T, a *pki.Authority, r pki.Request) string {
	t.Helper()
	folder, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func text(t *testing.T, elements ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestNothingIsWrittenOver(t *testing.T) {
	a, dir := start(t)
	r := pki.Request{Identity: node("net1")}
	folder := issue(t, a, r)
	key, cert := text(t, dir, "ca.key"), text(t, folder, "tls.crt")
	if _, err := pki.Init(dir, pki.Given{}); !errors.Is(err, pki.ErrExists) {
		t.Errorf("a second authority: %v", err)
	}
	if _, err := a.Issue(r); !errors.Is(err, pki.ErrExists) {
		t.Errorf("a second certificate: %v", err)
	}
	if text(t, dir, "ca.key") != key || text(t, folder, "tls.crt") != cert {
		t.Error("something has changed")
	}
	if _, err := pki.Open(t.TempDir()); !errors.Is(err, pki.ErrNone) {
		t.Errorf("an empty folder: %v", err)
	}
	for _, bad := range []pki.Request{
		{},
		{Identity: node("../x")},
		{Identity: node(".")},
		{Identity: identity.Identity{Role: "root", Name: "a"}},
		{Identity: node("a"), Hosts: []string{"no host"}},
		{Identity: node("a"), Life: -1},
	} {
		if folder, err := a.Issue(bad); err == nil {
			t.Errorf("%+v was issued in %s", bad, folder)
		}
	}
}

func TestOnlyTheOwnerCanReadWhatIsMade(t *testing.T) {
	a, dir := start(t)
	issue(t, a, pki.Request{Identity: node("net1")})
	if _, err := a.Rotate(pki.Given{}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s was left behind", path)
		}
		seen++
		return err
	}); err != nil || seen < 8 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func TestACertificateHasTheNamesAndUsesOfItsRole(t *testing.T) {
	a, _ := start(t)
	for role, server := range map[identity.Role]bool{identity.Controller: true, identity.Etcd: true, identity.Node: true, identity.Admin: false, identity.User: false} {
		var member identity.Membership
		if role == identity.User {
			member = identity.Membership{Role: "member", Projects: []string{"red"}}
		}
		folder := issue(t, a, pki.Request{Identity: identity.Identity{Role: role, Name: "one"}, Member: member, Hosts: []string{"10.0.0.1", "one.example.com", "fd00::1"}})
		certs, err := identity.Certificates([]byte(text(t, folder, "tls.crt")))
		if err != nil {
			t.Fatal(err)
		}
		cert := certs[0]
		if cert.Subject.CommonName != string(role)+":one" || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) != server || cert.IsCA {
			t.Errorf("%s: subject %s, uses %v", role, cert.Subject, cert.ExtKeyUsage)
		}
		for _, host := range []string{"one", "10.0.0.1", "one.example.com", "fd00::1"} {
			if err := cert.VerifyHostname(host); err != nil {
				t.Errorf("%s: %v", role, err)
			}
		}
		if left := time.Until(cert.NotAfter); left < pki.Life-time.Minute || left > pki.Life {
			t.Errorf("%s: lasts %s", role, left)
		}
	}
}

func TestTheCertificateOfAUserSaysWhatTheyMayDoAndKeepsIt(t *testing.T) {
	a, _ := start(t)
	bob := identity.Identity{Role: identity.User, Name: "bob"}
	folder := issue(t, a, pki.Request{Identity: bob, Member: identity.Membership{Role: "reader", Projects: []string{"red", "blue_2@x"}}})
	for range 2 {
		certs, err := identity.Certificates([]byte(text(t, folder, "tls.crt")))
		if err != nil {
			t.Fatal(err)
		}
		m, err := identity.MembershipOf(certs[0])
		if err != nil || m.Role != "reader" || !slices.Equal(slices.Sorted(slices.Values(m.Projects)), []string{"blue_2@x", "red"}) {
			t.Errorf("%+v, %v", m, err)
		}
		if _, err := a.Reissue(0); err != nil {
			t.Fatal(err)
		}
	}
	for says, r := range map[string]pki.Request{
		`role ""`:          {Identity: bob},
		`role "admin"`:     {Identity: bob, Member: identity.Membership{Role: "admin", Projects: []string{"red"}}},
		"of some project":  {Identity: bob, Member: identity.Membership{Role: "member"}},
		"can't name":       {Identity: bob, Member: identity.Membership{Role: "member", Projects: []string{"a b"}}},
		"65 projects":      {Identity: bob, Member: identity.Membership{Role: "member", Projects: slices.Repeat([]string{"a"}, 65)}},
		"net1 is no user":  {Identity: node("net1"), Member: identity.Membership{Role: "operator"}},
		"net2 is no user:": {Identity: node("net2"), Member: identity.Membership{Projects: []string{"red"}}},
	} {
		if _, err := a.Issue(r); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, which does not say %q", err, says)
		}
	}
	issue(t, a, pki.Request{Identity: identity.Identity{Role: identity.User, Name: "watch"}, Member: identity.Membership{Role: "operator"}})
}

func TestARenewalKeepsNamesAndTakesAnotherKey(t *testing.T) {
	a, _ := start(t)
	folder := issue(t, a, pki.Request{Identity: node("net1"), Hosts: []string{"10.0.0.1"}, Life: 48 * time.Hour})
	before, key := text(t, folder, "tls.crt"), text(t, folder, "tls.key")
	folders, err := a.Reissue(0)
	if err != nil || !slices.Equal(folders, []string{folder}) {
		t.Fatalf("%v, %v", folders, err)
	}
	if text(t, folder, "tls.crt") == before || text(t, folder, "tls.key") == key {
		t.Error("nothing has changed")
	}
	entries, err := a.Show()
	if err != nil || len(entries) != 2 {
		t.Fatalf("%+v, %v", entries, err)
	}
	if ca, e := entries[0], entries[1]; !ca.Issuing || e.Certificate != "node:net1" || !slices.Equal(e.Hosts, []string{"net1", "10.0.0.1"}) ||
		"ca:"+e.Issuer != ca.Certificate || time.Until(e.Until) > 48*time.Hour || time.Until(e.Until) < 47*time.Hour {
		t.Errorf("%+v", entries)
	}
}

func TestARotationThatWasInterruptedIsTakenUp(t *testing.T) {
	a, dir := start(t)
	folder := issue(t, a, pki.Request{Identity: node("net1")})
	broken := issue(t, a, pki.Request{Identity: node("net2")})
	cert := text(t, broken, "tls.crt")
	if err := os.WriteFile(filepath.Join(broken, "tls.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := text(t, dir, "ca.key")
	if _, err := a.Rotate(pki.Given{}); err == nil || !strings.Contains(err.Error(), "net2") {
		t.Fatalf("a credential that can't be renewed: %v", err)
	}
	made := text(t, dir, "next.key")
	if _, err := a.Finish(); err == nil || text(t, dir, "ca.key") != old {
		t.Errorf("the half of a rotation was finished: %v", err)
	}
	if err := os.WriteFile(filepath.Join(broken, "tls.crt"), []byte(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	if folders, err := a.Rotate(pki.Given{}); err != nil || len(folders) != 2 || text(t, dir, "ca.key") != made {
		t.Fatalf("taken up: %v, %v", folders, err)
	}
	if _, err := a.Rotate(pki.Given{}); !errors.Is(err, pki.ErrUnfinished) {
		t.Errorf("another one before the end of the first: %v", err)
	}
	for range 2 {
		if _, err := a.Finish(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(text(t, folder, "ca.crt"), "BEGIN"); n != 1 {
			t.Errorf("%d authorities at the end", n)
		}
	}
	if _, err := identity.Load(folder); err != nil {
		t.Error(err)
	}
}

func TestThePeersKeyIsChangedInThreeSteps(t *testing.T) {
	a, dir := start(t)
	folder := issue(t, a, pki.Request{Identity: node("net1")})
	lines := func() []string {
		out := strings.Fields(text(t, dir, "peer.key"))
		if text(t, folder, "peer.key") != text(t, dir, "peer.key") {
			t.Error("the node has another file")
		}
		return out
	}
	step := func(s pki.PeerStep) {
		t.Helper()
		for range 2 { // the second time nothing happens
			if _, err := a.RotatePeerKey(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	old := lines()[0]
	if _, err := a.RotatePeerKey(pki.UsePeerKey); err == nil {
		t.Error("a key is used that nobody has")
	}
	step(pki.AddPeerKey)
	added := lines()
	if len(added) != 2 || added[0] != old || added[1] == old {
		t.Fatalf("added: %d lines", len(added))
	}
	if _, err := a.RotatePeerKey(pki.DropPeerKey); err == nil {
		t.Error("a key was dropped that is used")
	}
	step(pki.UsePeerKey)
	if used := lines(); used[0] != added[1] || used[1] != old || !strings.HasPrefix(used[2], "#") {
		t.Errorf("used: %d lines", len(used))
	}
	step(pki.DropPeerKey)
	if left := lines(); len(left) != 1 || left[0] != added[1] {
		t.Errorf("left: %d lines", len(left))
	}
	step(pki.AddPeerKey)
	if again := lines(); len(again) != 2 || again[0] != added[1] {
		t.Errorf("again: %d lines", len(again))
	}
}

// company makes an authority that does not come from here: an RSA root, or one between that may have none below it.
func company(t *testing.T, between bool) pki.Given {
	t.Helper()
	root, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, root.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(root)}
	if between {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		parent, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		template.Subject.CommonName, template.MaxPathLenZero = "Company's fleet", true
		if der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), root); err != nil {
			t.Fatal(err)
		}
		raw, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		block = &pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}
	}
	dir := t.TempDir()
	g := pki.Given{CertFile: filepath.Join(dir, "c"), KeyFile: filepath.Join(dir, "k")}
	if err := errors.Join(os.WriteFile(g.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(g.KeyFile, pem.EncodeToMemory(block), 0o600)); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAnAuthorityThatExistsIsUsed(t *testing.T) {
	for name, between := range map[string]bool{"a root": false, "one between": true} {
		given := company(t, between)
		a, err := pki.Init(filepath.Join(t.TempDir(), "pki"), given)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		folder := issue(t, a, pki.Request{Identity: node("net1")})
		c, err := identity.Load(folder)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if own := c.Lifetimes()[0]; time.Until(own.Until) > time.Hour {
			t.Errorf("%s: the certificate outlives its authority: %v", name, own.Until)
		}
		// To one of the fleet's own, and back to the company's.
		for _, next := range []pki.Given{{}, given} {
			if _, err := a.Rotate(next); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := c.Reload(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := a.Finish(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := c.Reload(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := a.Rotate(given); err == nil {
			t.Errorf("%s: an authority follows itself", name)
		}
	}
}

func TestAnAuthorityThatCanNotIssueIsRefused(t *testing.T) {
	given, other := company(t, false), company(t, true)
	a, dir := start(t)
	folder := issue(t, a, pki.Request{Identity: node("net1")})
	for name, g := range map[string]pki.Given{
		"another one's key":             {CertFile: given.CertFile, KeyFile: other.KeyFile},
		"a certificate that is no CA's": {CertFile: filepath.Join(folder, "tls.crt"), KeyFile: filepath.Join(folder, "tls.key")},
		"no key":                        {CertFile: given.CertFile, KeyFile: given.CertFile},
		"no file":                       {CertFile: given.CertFile},
	} {
		into := filepath.Join(t.TempDir(), "pki")
		if _, err := pki.Init(into, g); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := pki.Open(into); !errors.Is(err, pki.ErrNone) {
			t.Errorf("%s left something: %v", name, err)
		}
	}
	if _, err := pki.Open(dir); err != nil {
		t.Error(err)
	}
}
