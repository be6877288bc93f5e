package oidc

import (
	"context"
	"crypto"
	"errors"
	"sync"
	"time"
)

// Why no key is found for a token.
var (
	errNoKeys = errors.New("no keys are known yet")
	errNoKey  = errors.New("no such key")
)

// keyring is the issuer's keys as they were fetched last. It is safe for concurrent use; run fetches them.
type keyring struct {
	fetch         func(context.Context) ([]key, error)
	every, atMost time.Duration // as in Options
	ask           chan struct{} // for run to fetch the keys now; room for one

	mu   sync.Mutex
	keys []key // nil: none have been fetched yet
	// Attempts to fetch them: how many have begun and ended, when the last did, and what is closed when the next does.
	begun, ended int
	last         time.Time
	next         chan struct{}
}

func newKeyring(fetch func(context.Context) ([]key, error), every, atMost time.Duration) *keyring {
	return &keyring{fetch: fetch, every: every, atMost: atMost, ask: make(chan struct{}, 1), next: make(chan struct{})}
}

// run fetches the keys, now and then and when it is asked to, until the context ends. While they can't be had, which failed is
// told, those that are known stay.
func (r *keyring) run(ctx context.Context, failed func(error)) {
	for {
		wait := r.every
		if err := r.attempt(ctx); err != nil && ctx.Err() == nil {
			failed(err)
			wait = min(r.every, r.atMost)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-r.ask:
			timer.Stop()
		}
	}
}

// attempt fetches the keys once.
func (r *keyring) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	r.begin()
	keys, err := r.fetch(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.keys = keys
	}
	r.ended, r.last = r.begun, time.Now()
	close(r.next)
	r.next = make(chan struct{})
	return err
}

// begin notes an attempt, which is what all want who have asked before.
func (r *keyring) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun++
	select {
	case <-r.ask:
	default:
	}
}

// get is a key by algorithm and id; without an id it is the only one of the algorithm. One that is not known has the keys
// fetched again: they may have been rotated.
func (r *keyring) get(ctx context.Context, algorithm, id string) (crypto.PublicKey, error) {
	k, err := r.find(algorithm, id)
	if err != nil {
		r.renew(ctx)
		k, err = r.find(algorithm, id)
	}
	return k, err
}

func (r *keyring) find(algorithm, id string) (crypto.PublicKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		return nil, errNoKeys
	}
	var found []crypto.PublicKey
	for _, k := range r.keys {
		if k.algorithm == algorithm && (k.id == id || id == "") {
			found = append(found, k.public)
		}
	}
	if len(found) != 1 {
		return nil, errNoKey
	}
	return found[0], nil
}

// renew has the keys fetched and waits for that, unless it has just been done.
func (r *keyring) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*fetchTimeout) // an attempt may be under way
	defer cancel()
	for attempt := r.wanted(); ; {
		ended, next := r.hasEnded(attempt)
		if ended {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// wanted is the attempt to wait for: the last if it has just ended, else one that has yet to begin, for which it asks. While no
// key is known one that is under way will do.
func (r *keyring) wanted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.last) < r.atMost || r.keys == nil && r.begun > r.ended {
		return r.begun
	}
	select {
	case r.ask <- struct{}{}:
	default: // somebody has asked
	}
	return r.begun + 1
}

// hasEnded reports whether an attempt has, and what is closed when the next one does.
func (r *keyring) hasEnded(attempt int) (bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended >= attempt, r.next
}
