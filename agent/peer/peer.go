// Package peer says how the agents of a fleet know each other. It neither listens nor dials (agent/gossip and agent/replica
// do), and it issues nothing.
//
// Where nodes have certificates (proto/identity), a connection speaks for the node of its certificate alone: Certificates.
// A Keyring holds the secret that all agents share and makes of it the keys of gossip and, for a fleet without certificates,
// TLS configurations that let only holders in: those do not tell one node from another.
//
// # The key file
//
// One key of 32 random bytes per line, in standard base64 (head -c 32 /dev/urandom | base64); empty lines and lines that
// begin with # do not count. The first key is used, every key is accepted. To change the key without a gap: add the new
// one at the end on every node, then move it to the front on every node, then remove the old one.
package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"sync"
	"time"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// maxKeys bounds a key file: more than a rotation needs is a mistake.
const maxKeys = 8

// Labels of what is derived from a key (RFC 5869, info): one secret is never used for two things.
const (
	gossipLabel   = "weft peer gossip 1"
	identityLabel = "weft peer identity 1"
)

var (
	// ErrExposed tells that others than the owner may read or change the key file.
	ErrExposed = errors.New("others may read or change it; chmod 600 it and change the key")
	// ErrStranger tells that the other end of a connection has none of the keys.
	ErrStranger = errors.New("the other end does not have a key of this fleet")
)

// key is one key's derivatives; the key itself is not kept.
type key struct {
	gossip      []byte
	public      ed25519.PublicKey
	certificate tls.Certificate
}

// Keyring is the keys of one file. Its methods may be called concurrently. It never prints a secret.
type Keyring struct {
	path string

	mu      sync.Mutex
	content [sha256.Size]byte
	keys    []key // never empty
}

// Load reads a key file. ErrExposed when its mode gives anybody but its owner access.
func Load(path string) (*Keyring, error) {
	k := &Keyring{path: path}
	if _, err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the file anew and reports whether the keys have changed. After an error the keys are what they were.
func (k *Keyring) Reload() (changed bool, err error) {
	text, err := read(k.path)
	if err != nil {
		return false, fmt.Errorf("key file %s: %w", k.path, err)
	}
	sum := sha256.Sum256(text)
	k.mu.Lock()
	same := k.keys != nil && sum == k.content
	k.mu.Unlock()
	if same {
		return false, nil
	}
	keys, err := parse(text)
	if err != nil {
		return false, fmt.Errorf("key file %s: %w", k.path, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.content, k.keys = sum, keys
	return true, nil
}

// maxFile bounds what is read of a key file, in bytes.
const maxFile = 16 << 10

// read returns the file's content if only its owner may touch it.
func read(path string) ([]byte, error) {
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
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("mode %04o: %w", info.Mode().Perm(), ErrExposed)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("longer than %d bytes", maxFile)
	}
	return text, err
}

// parse makes the keys of a file. Its errors name lines, never their content.
func parse(text []byte) ([]key, error) {
	var keys []key
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		secret, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(secret) != KeySize {
			return nil, fmt.Errorf("line %d is not %d bytes in base64; make one with: head -c %d /dev/urandom | base64", n, KeySize, KeySize)
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("line %d: more than %d keys", n, maxKeys)
		}
		derived, err := derive(secret)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys = append(keys, derived)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key in it; make one with: head -c %d /dev/urandom | base64", KeySize)
	}
	return keys, nil
}

func derive(secret []byte) (key, error) {
	gossip, err := hkdf.Key(sha256.New, secret, nil, gossipLabel, KeySize)
	if err != nil {
		return key{}, err
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, identityLabel, ed25519.SeedSize)
	if err != nil {
		return key{}, err
	}
	private := ed25519.NewKeyFromSeed(seed)
	public, _ := private.Public().(ed25519.PublicKey)
	// What counts is the public key in it; nobody looks at names and dates.
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weft peer"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(nil, &template, &template, public, private) // ed25519 needs no randomness
	if err != nil {
		return key{}, err
	}
	return key{gossip, public, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}}, nil
}

func (k *Keyring) current() []key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys // replaced as a whole, never changed
}

// Gossip returns the secrets of gossip, 32 bytes each: the first is used, all are accepted.
func (k *Keyring) Gossip() [][]byte {
	var out [][]byte
	for _, key := range k.current() {
		out = append(out, bytes.Clone(key.gossip))
	}
	return out
}

// String names the file.
func (k *Keyring) String() string { return "keys of " + k.path }

// GoString is String: %#v prints no secret either.
func (k *Keyring) GoString() string { return k.String() }

// Client is TLS: one holder of a key is like another.
func (k *Keyring) Client(string) *tls.Config { return k.TLS() }

// Server is TLS.
func (k *Keyring) Server() *tls.Config { return k.TLS() }

// TLS is the configuration of both ends of a connection: TLS 1.3, each end proves that it holds a key. It follows what
// Reload reads. A client learns that it was refused only when it first reads (RFC 8446, 4.4.4).
func (k *Keyring) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// There are no names or authorities to check: Verify decides by the public key.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection:   func(state tls.ConnectionState) error { return k.Verify(state, "") },
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &k.current()[0].certificate, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.current()[0].certificate, nil
		},
		SessionTicketsDisabled: true,
	}
}

// Verify returns ErrStranger unless the other end of the connection holds one of the keys as they are now: call it
// again after a Reload to find the connections that a removed key had let in. Which node it is can't be told.
func (k *Keyring) Verify(state tls.ConnectionState, _ string) error {
	if len(state.PeerCertificates) != 1 {
		return ErrStranger
	}
	public, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return ErrStranger
	}
	for _, key := range k.current() {
		if key.public.Equal(public) {
			return nil
		}
	}
	return ErrStranger
}
