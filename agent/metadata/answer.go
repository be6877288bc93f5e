package metadata

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// askTime bounds the answer to one question; the proxy asks again.
const askTime = 5 * time.Second

// maxQuestion bounds a question in bytes.
const maxQuestion = 4096

// answer says who a guest is.
func (m *Manager) answer(w http.ResponseWriter, r *http.Request) {
	var q wire.Question
	if err := json.NewDecoder(io.LimitReader(r.Body, maxQuestion)).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	g, err := m.guest(ctx, q)
	switch {
	case errors.Is(err, ErrNobody):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrUnusable):
		m.o.Log.Warn("an instance gets no metadata", "at", q.Place, "source", q.Source, "error", err)
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case err != nil:
		m.o.Log.Debug("can't say who a guest is", "at", q.Place, "source", q.Source, "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(g) // a proxy that has gone asks again
	}
}

func (m *Manager) guest(ctx context.Context, q wire.Question) (guest.Guest, error) {
	g, err := m.o.Guest(ctx, q)
	if err != nil || m.o.Secret == "" {
		return g, err
	}
	secret, err := readSecret(m.o.Secret)
	if err != nil {
		return g, err
	}
	g.Signature = Sign(secret, g.Instance)
	return g, nil
}

// Sign is what vouches for an instance's id: HMAC-SHA256 of it under the secret, in hexadecimal, as Nova's
// metadata_proxy_shared_secret wants it.
func Sign(secret []byte, instance string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(instance))
	return hex.EncodeToString(mac.Sum(nil))
}

// readSecret reads the file anew each time, so that changing it is all there is to do for a new secret. White space around
// the secret is not part of it.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("shared secret: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("shared secret: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("shared secret %s: others than its owner may use it (mode %04o): chmod 0600", path, st.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxQuestion))
	if text = bytes.TrimSpace(text); err == nil && len(text) == 0 {
		err = errors.New("is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("shared secret %s: %w", path, err)
	}
	return text, nil
}
