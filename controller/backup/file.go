package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The file is lines of JSON: a header, one line per key in the order of the keys, and a last one with the SHA-256 of all
// bytes before it, in hex. Values are base64, as encoding/json has bytes.
const (
	format  = "weft-backup"
	version = 1
)

type header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Schema is the version of the layout of the keys, as in package proto/schema.
	Schema   int64     `json:"schema"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
}

// Entry is one key with its value.
type Entry struct {
	Key   string `json:"k"`
	Value []byte `json:"v"`
}

type trailer struct {
	Keys   int    `json:"keys"`
	SHA256 string `json:"sha256"`
}

// ErrDamaged says that a file is no backup, or not all of one.
var ErrDamaged = errors.New("this is not a whole backup")

// writer writes a file and its checksum.
type writer struct {
	to   *bufio.Writer
	sum  io.Writer
	hash func() []byte
	keys int
}

func newWriter(w io.Writer, h header) (*writer, error) {
	hash := sha256.New()
	out := &writer{to: bufio.NewWriter(w), hash: func() []byte { return hash.Sum(nil) }}
	out.sum = io.MultiWriter(out.to, hash)
	h.Format, h.Version = format, version
	return out, line(out.sum, h)
}

func line(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

func (w *writer) entry(e Entry) error {
	w.keys++
	return line(w.sum, e)
}

func (w *writer) end() (digest string, err error) {
	digest = hex.EncodeToString(w.hash())
	if err := line(w.to, trailer{Keys: w.keys, SHA256: digest}); err != nil {
		return "", err
	}
	return digest, w.to.Flush()
}

// Backup is the content of a file.
type Backup struct {
	Schema, Revision int64
	Time             time.Time
	Entries          []Entry
	// Digest is the checksum that the file ends with.
	Digest string
}

// Parse reads a file to its end. ErrDamaged when it is not one, was cut or has been changed.
func Parse(r io.Reader) (*Backup, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	cut := bytes.LastIndexByte(bytes.TrimSuffix(raw, []byte{'\n'}), '\n') + 1
	body, last := raw[:cut], raw[cut:]
	var end trailer
	if err := strict(last, &end); err != nil || !bytes.HasSuffix(raw, []byte{'\n'}) {
		return nil, fmt.Errorf("%w: it has no last line with a checksum", ErrDamaged)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != end.SHA256 {
		return nil, fmt.Errorf("%w: its checksum does not match", ErrDamaged)
	}
	b, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	if len(b.Entries) != end.Keys {
		return nil, fmt.Errorf("%w: it has %d keys of %d", ErrDamaged, len(b.Entries), end.Keys)
	}
	b.Digest = end.SHA256
	return b, nil
}

func parseBody(body []byte) (*Backup, error) {
	first, rest, _ := bytes.Cut(body, []byte{'\n'})
	var h header
	if err := strict(first, &h); err != nil || h.Format != format {
		return nil, fmt.Errorf("%w: it does not begin with a header", ErrDamaged)
	}
	if h.Version != version {
		return nil, fmt.Errorf("the backup has format version %d, this release knows only %d; use the release that wrote it", h.Version, version)
	}
	b := &Backup{Schema: h.Schema, Revision: h.Revision, Time: h.Time}
	for text := range bytes.Lines(rest) {
		var e Entry
		if err := strict(text, &e); err != nil || e.Key == "" {
			return nil, fmt.Errorf("%w: line %d holds no key", ErrDamaged, len(b.Entries)+2)
		}
		if n := len(b.Entries); n > 0 && b.Entries[n-1].Key >= e.Key {
			return nil, fmt.Errorf("%w: key %s is not in its place", ErrDamaged, e.Key)
		}
		b.Entries = append(b.Entries, e)
	}
	return b, nil
}

// strict decodes one JSON value with no unknown fields.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
