package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// The files of a credential's folder.
const (
	CAFile   = "ca.crt"
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// ErrExposed tells that others than its owner may read or change a key.
var ErrExposed = errors.New("others may read or change it; chmod 600 it and have the certificate issued anew")

// Credential is a process's own identity and whom it trusts, as the files of a folder say. Connections that are made
// after Reload, or while Follow runs, use what the files have become. Its methods may be called concurrently. It never
// prints a key.
type Credential struct {
	dir string
	// read reads the folder.
	read func(dir string) (*material, error)
	now  atomic.Pointer[material] // never nil, replaced as a whole
}

// material is what was in the files.
type material struct {
	sum         [sha256.Size]byte
	self        Identity
	certificate tls.Certificate // with its Leaf
	authorities []*x509.Certificate
	roots       *x509.CertPool
}

// Load reads a folder. The error says which file is wrong.
func Load(dir string) (*Credential, error) { return load(dir, readOwn) }

// LoadCaller is Load for whoever only calls: their certificate may have any subject, for whom it speaks is the server's to say.
// Self is nobody when it is no identity's.
func LoadCaller(dir string) (*Credential, error) { return load(dir, read) }

func load(dir string, read func(string) (*material, error)) (*Credential, error) {
	m, err := read(dir)
	if err != nil {
		return nil, fmt.Errorf("credential in %s: %w", dir, err)
	}
	c := &Credential{dir: dir, read: read}
	c.now.Store(m)
	return c, nil
}

// LoadAuthorities reads the authorities of a folder alone: whoever goes by it is nobody, and knows servers. It does not follow
// its file.
func LoadAuthorities(dir string) (*Credential, error) {
	text, err := readFile(filepath.Join(dir, CAFile), false)
	if err != nil {
		return nil, fmt.Errorf("authorities in %s: %s: %w", dir, CAFile, err)
	}
	m, err := trusting(text)
	if err != nil {
		return nil, fmt.Errorf("authorities in %s: %w", dir, err)
	}
	c := &Credential{dir: dir}
	c.now.Store(m)
	return c, nil
}

// trusting is what there is of a credential when its authorities are known.
func trusting(text []byte) (*material, error) {
	m := &material{roots: x509.NewCertPool()}
	var err error
	if m.authorities, err = Certificates(text); err != nil {
		return nil, fmt.Errorf("%s: %w", CAFile, err)
	}
	for _, ca := range m.authorities {
		m.roots.AddCert(ca)
	}
	return m, nil
}

// Reload reads the folder anew and reports whether anything has changed. After an error everything is as it was: files
// that do not fit each other yet, a certificate of somebody else.
func (c *Credential) Reload() (changed bool, err error) {
	m, err := c.read(c.dir)
	if err != nil {
		return false, fmt.Errorf("credential in %s: %w", c.dir, err)
	}
	before := c.now.Load()
	switch {
	case m.sum == before.sum:
		return false, nil
	case m.self != before.self:
		return false, fmt.Errorf("credential in %s: it was of %s and is of %s now; start the process anew if that is meant", c.dir, before.self, m.self)
	}
	c.now.Store(m)
	return true, nil
}

// Self is whom the credential speaks for.
func (c *Credential) Self() Identity { return c.now.Load().self }

// String names the folder; %#v prints no key either.
func (c *Credential) String() string { return "credential in " + c.dir }

// GoString is String.
func (c *Credential) GoString() string { return c.String() }

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// read returns what the files hold, if they fit each other.
func read(dir string) (*material, error) {
	sum := sha256.New()
	text := map[string][]byte{}
	for _, name := range []string{CAFile, CertFile, KeyFile} {
		content, err := readFile(filepath.Join(dir, name), name == KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		text[name] = content
		fmt.Fprintf(sum, "%d ", len(content))
		sum.Write(content)
	}
	m, err := trusting(text[CAFile])
	if err != nil {
		return nil, err
	}
	m.sum = [sha256.Size]byte(sum.Sum(nil))
	if m.certificate, err = tls.X509KeyPair(text[CertFile], text[KeyFile]); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", CertFile, KeyFile, err)
	}
	leaf := m.certificate.Leaf
	m.self, _ = Of(leaf) // or nobody's
	if err := m.verify(m.chain(), x509.ExtKeyUsageAny); err != nil {
		return nil, fmt.Errorf("%s: the certificate of %s, serial %x: %w", CertFile, Subject(leaf), leaf.SerialNumber, err)
	}
	return m, nil
}

// readOwn is read of a folder whose certificate is an identity's.
func readOwn(dir string) (*material, error) {
	m, err := read(dir)
	if err != nil {
		return nil, err
	}
	if _, err := Of(m.certificate.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", CertFile, err)
	}
	return m, nil
}

// readFile reads a file of a sane size, a secret one only if nobody but its owner may touch it.
func readFile(path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a file")
	case secret && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("mode %04o: %w", info.Mode().Perm(), ErrExposed)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("longer than %d bytes", maxFile)
	}
	return content, err
}

// Certificates are those of a PEM text, at least one; other blocks in it are an error.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %s in it, where only certificates belong", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	switch {
	case len(bytes.TrimSpace(text)) > 0:
		return nil, errors.New("there is something in it that is not PEM")
	case len(out) == 0:
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

// chain is the own certificate and those that lead to an authority.
func (m *material) chain() []*x509.Certificate {
	out := []*x509.Certificate{m.certificate.Leaf}
	for _, der := range m.certificate.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil { // what can't be parsed leads nowhere
			out = append(out, cert)
		}
	}
	return out
}

// verify checks that a certificate, the first, is valid now and of an authority that is trusted.
func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// Server is the configuration of who is called: TLS 1.3, and callers show a certificate of a trusted authority and have
// one of the roles.
func (c *Credential) Server(roles ...Role) *tls.Config {
	return c.server(tls.RequireAndVerifyClientCert, expect(roles))
}

// server is the configuration of who is called, with what is asked of callers.
func (c *Credential) server(auth tls.ClientAuthType, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := c.now.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{now.certificate},
				ClientAuth: auth, ClientCAs: now.roots, VerifyConnection: verify,
				SessionTicketsDisabled: true, // a ticket would outlive the trust that it was given in
			}, nil
		},
	}
}

// Client is the configuration for one connection that is made now: TLS 1.3, to somebody whose certificate has the name or
// address among its alternative names, is of a trusted authority and has one of the roles.
func (c *Credential) Client(name string, roles ...Role) *tls.Config {
	now := c.now.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name, RootCAs: now.roots, VerifyConnection: expect(roles),
		// Whatever authorities a server says it knows: it may trust ours by way of another.
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &now.certificate, nil },
		SessionTicketsDisabled: true,
	}
}

// expect ends a handshake with somebody of another role.
func expect(roles []Role) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		id, err := Peer(state)
		if err == nil && !slices.Contains(roles, id.Role) {
			err = fmt.Errorf("%s is none of %v: %w", id, roles, ErrStranger)
		}
		return err
	}
}

// orNobody also takes callers who show no certificate, or one that is of no identity.
func orNobody(verify func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if _, err := Peer(state); err != nil {
			return nil //nolint:nilerr // the server has to ask
		}
		return verify(state)
	}
}

// Verify says whether the other end of an open connection is still who it was, by what the files say now: its authority
// may have been dropped, its certificate may have expired.
func (c *Credential) Verify(state tls.ConnectionState, want Identity) error {
	id, err := Peer(state)
	if err == nil && id != want {
		err = fmt.Errorf("%s is not %s: %w", id, want, ErrStranger)
	}
	if err == nil {
		err = c.now.Load().verify(state.PeerCertificates, x509.ExtKeyUsageAny)
	}
	return err
}

// followEvery is how often the files are looked at; warnEvery is how often it is said that a certificate ends soon.
const (
	followEvery = time.Second
	warnEvery   = time.Hour
)

// Follow goes by the files as they change, until the context ends, and says in the log what it took over, what it could
// not, and, now and then, that a certificate has less than a fifth of its life left.
func (c *Credential) Follow(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var warned time.Time
	var doubt, said string
	for {
		switch changed, err := c.Reload(); {
		case err == nil && changed:
			log.Info("the credential has changed", "folder", c.dir, "identity", c.Self(), "expires", c.now.Load().certificate.Leaf.NotAfter)
			doubt, said, warned = "", "", time.Time{}
		case err == nil:
			doubt, said = "", ""
		case err.Error() == doubt && doubt != said: // twice: not just between two files of a rotation
			log.Error("the credential stays as it was", "error", err)
			said = doubt
		default:
			doubt = err.Error()
		}
		if time.Since(warned) >= warnEvery {
			warned = time.Now()
			c.warn(log)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
