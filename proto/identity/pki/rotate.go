package pki

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/weft-sdn/weft/proto/identity"
)

// Reissue renews every certificate: a new key, the same names, and a life that is as long as before if it is 0. It returns the folders, which are to be
// carried to their hosts, in any order.
func (a *Authority) Reissue(life time.Duration) ([]string, error) {
	issuer, err := a.issuer(keyFile)
	if err != nil {
		return nil, err
	}
	return a.reissue(issuer, life)
}

func (a *Authority) reissue(issuer signer, life time.Duration) ([]string, error) {
	return a.each(func(id identity.Identity, folder string) error {
		old, err := a.certificate(id)
		if err != nil {
			return err
		}
		now := time.Now()
		return a.fill(folder, id.Role, issuer, &x509.Certificate{
			Subject: old.Subject, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses, KeyUsage: old.KeyUsage, ExtKeyUsage: old.ExtKeyUsage,
			NotBefore: now.Add(-skew), NotAfter: now.Add(cmp.Or(life, old.NotAfter.Sub(old.NotBefore)-skew)),
		})
	})
}

// each does something with every credential, and returns the folders.
func (a *Authority) each(do func(identity.Identity, string) error) ([]string, error) {
	ids, err := a.identities()
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, id := range ids {
		folder := a.Folder(id)
		if err := do(id, folder); err != nil {
			return folders, fmt.Errorf("credential of %s in %s: %w", id, folder, err)
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

// certificate is that of an identity, as its folder has it.
func (a *Authority) certificate(id identity.Identity) (*x509.Certificate, error) {
	certs, err := a.readCerts(string(id.Role) + "/" + id.Name + "/" + identity.CertFile)
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// Rotate puts another authority in the place of the one that issues, which goes on being trusted, and issues everything
// anew. It returns the folders. ErrUnfinished when an earlier authority is still trusted. After an interruption it goes on
// with the authority that it had made.
func (a *Authority) Rotate(given Given) ([]string, error) {
	old, err := a.issuer(keyFile)
	if err != nil {
		return nil, err
	}
	next, err := a.issuer(nextFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNone) {
		next, err = a.follow(old, given)
	}
	if err != nil {
		return nil, err
	}
	if err := a.crossSign(old, next); err != nil {
		return nil, err
	}
	folders, err := a.reissue(next, 0)
	if err != nil {
		return nil, err
	}
	return folders, os.Rename(a.path(nextFile), a.path(keyFile))
}

// follow makes the next authority and has the fleet trust it too.
func (a *Authority) follow(old signer, given Given) (signer, error) {
	trusted, err := a.readCerts(identity.CAFile)
	if err != nil {
		return signer{}, err
	}
	if len(trusted) > 1 {
		return signer{}, fmt.Errorf("%s: %w: carry the folders to their hosts, then: weft pki rotate ca --finish", a.path(identity.CAFile), ErrUnfinished)
	}
	next, err := given.signer()
	if err != nil {
		return signer{}, err
	}
	if samePublic(old.cert.PublicKey, next.cert.PublicKey) {
		return signer{}, fmt.Errorf("%s is the authority that issues already", given.CertFile)
	}
	if err := a.writeKey(nextFile, next.key); err != nil {
		return signer{}, err
	}
	return next, a.writeCerts(identity.CAFile, next.cert, old.cert)
}

// crossSign has the old authority certify the next one. One that may have nobody between itself and what it issues
// (RFC 5280, 4.2.1.9), or has expired, can't: then there is no cross.crt.
func (a *Authority) crossSign(old, next signer) error {
	if alone := old.cert.MaxPathLen == 0 && old.cert.MaxPathLenZero; alone || time.Now().After(old.cert.NotAfter) {
		if err := os.Remove(a.path(crossFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	cross, err := old.sign(&x509.Certificate{
		Subject: next.cert.Subject, RawSubject: next.cert.RawSubject, SubjectKeyId: next.cert.SubjectKeyId,
		NotBefore: next.cert.NotBefore, NotAfter: next.cert.NotAfter, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}, next.cert.PublicKey)
	if err != nil {
		return err
	}
	return a.writeCerts(crossFile, cross)
}

// Finish drops every authority but the one that issues, and returns the folders. Refused while a certificate is of
// another. Doing it again changes nothing.
func (a *Authority) Finish() ([]string, error) {
	if _, err := os.Lstat(a.path(nextFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s: a rotation was interrupted; go on with it: weft pki rotate ca", a.path(nextFile)), err)
	}
	issuer, err := a.issuer(keyFile)
	if err != nil {
		return nil, err
	}
	if _, err := a.each(func(id identity.Identity, _ string) error {
		cert, err := a.certificate(id)
		if err == nil {
			err = cert.CheckSignatureFrom(issuer.cert)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("%w: issue it anew first: weft pki rotate certificates", err)
	}
	if err := a.writeCerts(identity.CAFile, issuer.cert); err != nil {
		return nil, err
	}
	return a.each(func(id identity.Identity, folder string) error { return a.share(folder, id.Role) })
}

// keySize is the length in bytes of a key of the peers (package agent/peer of the agent).
const keySize = 32

// PeerStep is one of the three by which the key of the peers is changed. Between two of them the nodes' folders are
// carried to their hosts: a node must have a key before another one uses it.
type PeerStep int

// The steps, in order. Each is done once, however often it is asked for.
const (
	AddPeerKey  PeerStep = iota // a new key is accepted
	UsePeerKey                  // the new key is used
	DropPeerKey                 // only the key that is used is accepted
)

// RotatePeerKey makes a step and returns the folders. The first line of the file is the key that is used.
func (a *Authority) RotatePeerKey(step PeerStep) ([]string, error) {
	text, err := os.ReadFile(a.path(peerFile))
	if err != nil {
		return nil, err
	}
	lines := bytes.Fields(text)
	switch {
	case step == AddPeerKey && len(lines) == 1:
		err = a.addPeerKey()
	case step == UsePeerKey && len(lines) == 2:
		err = a.writePeerKeys(append(lines[1:2:2], lines[0], []byte(usedMark))...)
	case step == DropPeerKey && len(lines) > 2:
		err = a.writePeerKeys(lines[0])
	case step == UsePeerKey && len(lines) == 1, step == DropPeerKey && len(lines) == 2:
		err = fmt.Errorf("%s: the step before this one has not been made", a.path(peerFile))
	}
	if err != nil {
		return nil, err
	}
	return a.each(func(id identity.Identity, folder string) error { return a.share(folder, id.Role) })
}

// usedMark is a comment in the file by which the steps are told apart.
const usedMark = "#the-new-key-is-used"

// addPeerKey appends a key to the file, which is made if need be.
func (a *Authority) addPeerKey() error {
	old, err := os.ReadFile(a.path(peerFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	secret := make([]byte, keySize)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	return a.writePeerKeys(append(bytes.Fields(old), []byte(base64.StdEncoding.EncodeToString(secret)))...)
}

func (a *Authority) writePeerKeys(lines ...[]byte) error {
	return write(a.path(peerFile), append(bytes.Join(lines, []byte("\n")), '\n'))
}

// Entry is what Show says of a certificate.
type Entry struct {
	// Certificate is an identity, or "ca:" and the name of an authority.
	Certificate string
	Issuer      string
	NotBefore   time.Time
	Until       time.Time
	Hosts       []string
	// Issuing: it is the authority that issues.
	Issuing bool
	Folder  string
}

// Show lists the authorities and the credentials.
func (a *Authority) Show() ([]Entry, error) {
	issuer, err := a.issuer(keyFile)
	if err != nil {
		return nil, err
	}
	trusted, err := a.readCerts(identity.CAFile)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, ca := range trusted {
		e := entry("ca:"+ca.Subject.CommonName, ca, a.dir)
		e.Issuing = ca.Equal(issuer.cert)
		out = append(out, e)
	}
	_, err = a.each(func(id identity.Identity, folder string) error {
		cert, err := a.certificate(id)
		if err == nil {
			out = append(out, entry(id.String(), cert, folder))
		}
		return err
	})
	return out, err
}

func entry(name string, cert *x509.Certificate, folder string) Entry {
	hosts := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return Entry{Certificate: name, Issuer: cert.Issuer.CommonName, NotBefore: cert.NotBefore, Until: cert.NotAfter, Hosts: hosts, Folder: folder}
}
