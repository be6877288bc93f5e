package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

var (
	errNobody   = errors.New("nobody has this address here")
	errUnusable = errors.New("what is stored can't be used")
)

// asker asks the node's agent.
type asker struct {
	client   *http.Client
	patience time.Duration
}

// The agent is asked at most so many questions at once, and again after a pause while it is away.
const (
	maxQuestions = 32
	pause        = 50 * time.Millisecond
)

func newAsker(path string, patience time.Duration) asker {
	var d net.Dialer
	return asker{patience: patience, client: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		MaxIdleConnsPerHost: maxQuestions, MaxConnsPerHost: maxQuestions, DisableCompression: true,
	}}}
}

// who gives the guest at an address. While the agent is away, or does not know its node yet, it asks again.
func (a asker) who(ctx context.Context, q wire.Question) (*guest.Guest, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	for {
		g, err := a.ask(ctx, body)
		if err == nil || errors.Is(err, errNobody) || errors.Is(err, errUnusable) {
			return g, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

func (a asker) ask(ctx context.Context, question []byte) (*guest.Guest, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+wire.AskPath, bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, wire.MaxAnswer))
	if err != nil {
		return nil, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		g := &guest.Guest{}
		return g, json.Unmarshal(text, g)
	case http.StatusNotFound:
		return nil, errNobody
	case http.StatusUnprocessableEntity:
		return nil, errUnusable
	default:
		return nil, fmt.Errorf("the agent says %s: %s", answer.Status, text)
	}
}
