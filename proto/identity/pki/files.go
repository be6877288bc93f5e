package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weft-sdn/weft/proto/identity"
)

// write replaces a file as a whole: a reader, or who comes after a crash, finds the old one or the new one.
func write(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func writeCerts(path string, certs ...*x509.Certificate) error {
	var text bytes.Buffer
	for _, cert := range certs {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return err
		}
	}
	return write(path, text.Bytes())
}

func (a *Authority) writeCerts(name string, certs ...*x509.Certificate) error {
	return writeCerts(a.path(name), certs...)
}

func (a *Authority) readCerts(name string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(a.path(name))
	if err != nil {
		return nil, err
	}
	certs, err := identity.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.path(name), err)
	}
	return certs, nil
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (a *Authority) writeKey(name string, key crypto.Signer) error {
	return writeKey(a.path(name), key)
}

// readKey reads a private key: PKCS #8 (RFC 5958), SEC 1 (RFC 5915) or PKCS #1 (RFC 8017). Errors never quote it.
func readKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if signer, ok := key.(crypto.Signer); ok && err == nil {
			return signer, nil
		}
		return nil, fmt.Errorf("%s: the key in it can't be read", path)
	}
	return nil, fmt.Errorf("%s: no key in it", path)
}

// identities are those that have a folder, in order of their names.
func (a *Authority) identities() ([]identity.Identity, error) {
	var out []identity.Identity
	for _, role := range identity.Roles() {
		entries, err := os.ReadDir(a.path(string(role)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			id := identity.Identity{Role: role, Name: e.Name()}
			if e.IsDir() && id.Check() == nil { // no name begins with a dot: those are unfinished
				out = append(out, id)
			}
		}
	}
	return out, nil
}
