// Package pki is a fleet's certificate authority: a folder on the machine of whoever runs the fleet, from which each
// process gets a folder of its own (package identity says what is in it). It makes certificates and keys, writes files
// and knows nothing of the processes that use them: whoever runs the fleet carries folders to hosts, and carries them
// again when one has changed. Nothing here is for two programs at once in one folder.
//
// # The folder
//
//	ca.crt             the authorities that the fleet trusts: one, or two while one follows another
//	ca.key             the key of the one that issues
//	cross.crt          after a rotation: the issuing authority, certified by the one before it
//	peer.key           what network nodes' gossip is encrypted with (package agent/peer of the agent)
//	<role>/<name>/     a credential: ca.crt, tls.crt, tls.key and, of a node, peer.key
//
// Every file has mode 0600 and is written under another name first. What is interrupted is done by the same call again.
//
// # Rotation of the authority
//
// Rotate makes another authority beside the one there is and issues everything anew by it. A certificate then brings
// cross.crt along: those who know only the old authority accept it too, so folders may be carried to hosts in any order,
// and an etcd, which reads its authorities only when it starts, needs no restart. When every host has its new folder,
// Finish drops the old authority; again the order does not matter. What read its files before Rotate and never since, as
// an etcd does, trusts the old authority until it is started anew.
package pki

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/model"
)

// Names of files, see the package comment.
const (
	keyFile   = "ca.key"
	crossFile = "cross.crt"
	nextFile  = "next.key" // of an authority that is to become the issuing one
	peerFile  = "peer.key"
)

// How long certificates last if nothing else is said. They begin a little before they are made: clocks differ.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	Life          = 365 * 24 * time.Hour
	skew          = 5 * time.Minute
)

// The classes of error, for errors.Is.
var (
	// ErrExists tells that there is something already; nothing is ever written over.
	ErrExists = errors.New("exists already")
	// ErrNone tells that a folder holds no authority.
	ErrNone = errors.New("no certificate authority there; make one: weft pki init")
	// ErrUnfinished tells that a rotation has to be ended before another begins.
	ErrUnfinished = errors.New("the last rotation has not been finished")
)

// Authority is a folder. It holds nothing in memory; its methods must not be called concurrently.
type Authority struct{ dir string }

// signer is a certificate and its key.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Given is an authority that exists already, as two PEM files; the zero value makes a new one (ECDSA P-256).
type Given struct{ CertFile, KeyFile string }

// Init makes an authority in a folder, which is made if need be. ErrExists when there is one.
func Init(dir string, given Given) (*Authority, error) {
	a := &Authority{dir}
	if _, err := os.Lstat(a.path(keyFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w; to replace it: weft pki rotate ca", a.path(keyFile), errors.Join(ErrExists, err))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := given.signer()
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(a.path(peerFile)); errors.Is(err, fs.ErrNotExist) {
		if err := a.addPeerKey(); err != nil {
			return nil, err
		}
	}
	if err := a.writeCerts(identity.CAFile, s.cert); err != nil {
		return nil, err
	}
	return a, a.writeKey(keyFile, s.key) // the last: from now on there is an authority
}

// Open is the authority in a folder; ErrNone when there is none.
func Open(dir string) (*Authority, error) {
	a := &Authority{dir}
	_, err := os.Stat(a.path(keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	return a, err
}

func (a *Authority) path(elements ...string) string {
	return filepath.Join(append([]string{a.dir}, elements...)...)
}

// Folder is where an identity's credential is, or would be.
func (a *Authority) Folder(id identity.Identity) string { return a.path(string(id.Role), id.Name) }

// Request says what a certificate is to be like.
type Request struct {
	Identity identity.Identity
	// Hosts are the names and addresses at which it is found, beside its own name; of a controller and an etcd, that serve,
	// also the host's own (localhost).
	Hosts []string
	// Member is what a user may do; of others nothing.
	Member identity.Membership
	// Life is how long it lasts; Life if 0. It never outlives its authority.
	Life time.Duration
}

// Issue makes a credential and returns its folder. ErrExists when there is one.
func (a *Authority) Issue(r Request) (string, error) {
	if err := r.check(); err != nil {
		return "", err
	}
	folder := a.Folder(r.Identity)
	if _, err := os.Lstat(folder); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w; to renew what is in it: weft pki rotate certificates", folder, errors.Join(ErrExists, err))
	}
	issuer, err := a.issuer(keyFile)
	if err != nil {
		return "", err
	}
	template, err := r.template()
	if err != nil {
		return "", err
	}
	// Under another name first: what has the name is whole.
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(filepath.Dir(folder), "."+r.Identity.Name+".*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(making) //nolint:errcheck // it has the other name by then
	if err := a.fill(making, r.Identity.Role, issuer, template); err != nil {
		return "", err
	}
	return folder, os.Rename(making, folder)
}

func (r Request) check() error {
	if err := r.Identity.Check(); err != nil {
		return err
	}
	switch member := r.Member.Role != "" || len(r.Member.Projects) > 0; {
	case r.Identity.Role == identity.User:
		return r.Member.Check()
	case member:
		return fmt.Errorf("%s is no user: only users have a role and projects", r.Identity)
	default:
		return nil
	}
}

// template is the certificate without what its issuer gives it.
func (r Request) template() (*x509.Certificate, error) {
	names := append([]string{r.Identity.Name}, r.Hosts...)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	switch r.Identity.Role {
	case identity.Controller, identity.Etcd:
		names = append(names, "localhost", "127.0.0.1", "::1")
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	case identity.Node:
		usage = append(usage, x509.ExtKeyUsageServerAuth) // to other nodes
	case identity.Admin, identity.User:
	}
	if r.Life < 0 {
		return nil, fmt.Errorf("life %s: it has to be more than nothing", r.Life)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: r.subject(), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
		NotBefore: now.Add(-skew), NotAfter: now.Add(cmp.Or(r.Life, Life)),
	}
	for _, name := range names {
		ip, err := netip.ParseAddr(name)
		switch {
		case err == nil:
			template.IPAddresses = append(template.IPAddresses, ip.Unmap().AsSlice())
		case !model.ValidDomain(name):
			return nil, fmt.Errorf("host %q: neither a name nor an address", name)
		case !slices.Contains(template.DNSNames, name):
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template, nil
}

func (r Request) subject() pkix.Name {
	name := pkix.Name{CommonName: r.Identity.String()}
	if r.Identity.Role == identity.User {
		name.OrganizationalUnit, name.Organization = []string{r.Member.Role}, slices.Sorted(slices.Values(r.Member.Projects))
	}
	return name
}

// fill writes a credential: a new key, and a certificate for it.
func (a *Authority) fill(folder string, role identity.Role, issuer signer, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := issuer.sign(template, key.Public())
	if err != nil {
		return err
	}
	chain := []*x509.Certificate{cert}
	cross, err := a.cross(issuer)
	if err != nil {
		return err
	}
	chain = append(chain, cross...)
	if err := a.share(folder, role); err != nil {
		return err
	}
	// Between the two a reader finds a key and a certificate that do not fit, and waits.
	if err := writeKey(filepath.Join(folder, identity.KeyFile), key); err != nil {
		return err
	}
	return writeCerts(filepath.Join(folder, identity.CertFile), chain...)
}

// cross is what leads from the issuer to the authority before it; nothing if there is none, or it is over.
func (a *Authority) cross(issuer signer) ([]*x509.Certificate, error) {
	certs, err := a.readCerts(crossFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !samePublic(certs[0].PublicKey, issuer.key.Public()), time.Now().After(certs[0].NotAfter):
		return nil, nil
	}
	return certs, nil
}

// share writes what a credential has in common with others.
func (a *Authority) share(folder string, role identity.Role) error {
	shared := []string{identity.CAFile}
	if role == identity.Node {
		shared = append(shared, peerFile)
	}
	for _, name := range shared {
		text, err := os.ReadFile(a.path(name))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(folder, name), text); err != nil {
			return err
		}
	}
	return nil
}

// sign issues a certificate.
func (s signer) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // RFC 5280, 4.1.2.2: at most 20 octets, positive
	if err != nil {
		return nil, err
	}
	filled := *template
	filled.SerialNumber, filled.AuthorityKeyId = serial, nil
	parent := s.cert
	switch now := time.Now(); {
	case parent == nil: // it issues itself
		parent = &filled
	case now.After(parent.NotAfter):
		return nil, fmt.Errorf("authority %s has expired; replace it: weft pki rotate ca", parent.Subject.CommonName)
	case filled.NotAfter.After(parent.NotAfter):
		filled.NotAfter = parent.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &filled, parent, public, s.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// signer is the authority that is given, or a new one.
func (g Given) signer() (signer, error) {
	if g != (Given{}) {
		return g.load()
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signer{}, err
	}
	return newAuthority(key)
}

// newAuthority makes the certificate of an authority that issues itself. Its name tells it from others of the fleet.
func newAuthority(key crypto.Signer) (signer, error) {
	now := time.Now()
	cert, err := signer{key: key}.sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "weft fleet " + now.UTC().Format("2006-01-02T15:04:05.000Z")},
		NotBefore: now.Add(-skew), NotAfter: now.Add(AuthorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}, key.Public())
	return signer{cert, key}, err
}

// load reads an authority that exists.
func (g Given) load() (signer, error) {
	text, err := os.ReadFile(g.CertFile)
	if err != nil {
		return signer{}, fmt.Errorf("certificate of the authority: %w", err)
	}
	certs, err := identity.Certificates(text)
	if err != nil {
		return signer{}, fmt.Errorf("certificate of the authority %s: %w", g.CertFile, err)
	}
	key, err := readKey(g.KeyFile)
	if err != nil {
		return signer{}, fmt.Errorf("key of the authority: %w", err)
	}
	switch cert := certs[0]; {
	case !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return signer{}, fmt.Errorf("%s: %s may not issue certificates", g.CertFile, cert.Subject)
	case !samePublic(cert.PublicKey, key.Public()):
		return signer{}, fmt.Errorf("%s is not the key of %s", g.KeyFile, g.CertFile)
	default:
		return signer{cert, key}, nil
	}
}

// issuer is the authority of the fleet's that a key file belongs to; ErrNone when the fleet trusts none of that key.
func (a *Authority) issuer(file string) (signer, error) {
	key, err := readKey(a.path(file))
	if err != nil {
		return signer{}, err
	}
	trusted, err := a.readCerts(identity.CAFile)
	if err != nil {
		return signer{}, err
	}
	for _, cert := range trusted {
		if samePublic(cert.PublicKey, key.Public()) {
			return signer{cert, key}, nil
		}
	}
	return signer{}, fmt.Errorf("%s: no authority in %s has this key: %w", a.path(file), a.path(identity.CAFile), ErrNone)
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
