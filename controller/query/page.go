package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/weft-sdn/weft/proto/model"
)

// DefaultPage and MaxPage bound how many objects one answer holds.
const (
	DefaultPage = 1000
	MaxPage     = 10000
)

// Page is where a page begins: at which revision of the store, and after how many objects.
type Page struct {
	Revision int64 // 0: now
	Offset   int
	Size     int
}

// hashLen is how much of the query's hash a token carries: enough to notice a mistake.
const hashLen = 8

func hash(query []string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(query, "\x00")))
	return sum[:hashLen]
}

// ParsePage reads a page size and a token. query is everything that must be the same on all pages. Errors are
// model.FieldErrors.
func ParsePage(size int32, token string, query ...string) (Page, error) {
	p := Page{Size: int(size)}
	switch {
	case size < 0:
		return Page{}, model.Invalid("page_size", "%d is negative", size)
	case size == 0:
		p.Size = DefaultPage
	case size > MaxPage:
		p.Size = MaxPage
	}
	if token == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 16+hashLen {
		return Page{}, model.Invalid("page_token", "%q is not a token of ours", shorten(token))
	}
	revision, offset := binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:])
	if string(raw[16:]) != string(hash(query)) {
		return Page{}, model.Invalid("page_token", "belongs to another query: filter, order and project must stay the same on all pages")
	}
	if revision == 0 || revision > 1<<62 || offset > 1<<31 {
		return Page{}, model.Invalid("page_token", "%q is not a token of ours", token)
	}
	p.Revision, p.Offset = int64(revision), int(offset)
	return p, nil
}

func shorten(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%s…", s[:64])
	}
	return s
}

// Token is the token of the page that begins after offset objects.
func Token(revision int64, offset int, query ...string) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(revision))
	raw = binary.BigEndian.AppendUint64(raw, uint64(offset))
	return base64.RawURLEncoding.EncodeToString(append(raw, hash(query)...))
}
