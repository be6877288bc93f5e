package ovs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-org/libovsdb/cache"
	"github.com/ovn-org/libovsdb/client"
	"github.com/ovn-org/libovsdb/model"
	"github.com/ovn-org/libovsdb/ovsdb"
)

// The tables and the columns that are monitored, nothing else: statistics change every few seconds and would wake the agent.

type rootRow struct {
	UUID        string            `ovsdb:"_uuid"`
	Bridges     []string          `ovsdb:"bridges"`
	NextCfg     int               `ovsdb:"next_cfg"`
	CurCfg      int               `ovsdb:"cur_cfg"`
	Version     *string           `ovsdb:"ovs_version"`
	OtherConfig map[string]string `ovsdb:"other_config"`
}

type bridgeRow struct {
	UUID         string            `ovsdb:"_uuid"`
	Name         string            `ovsdb:"name"`
	DatapathType string            `ovsdb:"datapath_type"`
	FailMode     *string           `ovsdb:"fail_mode"`
	Protocols    []string          `ovsdb:"protocols"`
	Ports        []string          `ovsdb:"ports"`
	ExternalIDs  map[string]string `ovsdb:"external_ids"`
}

type portRow struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Tag         *int              `ovsdb:"tag"`
	Interfaces  []string          `ovsdb:"interfaces"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

type interfaceRow struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Type        string            `ovsdb:"type"`
	OFPort      *int              `ovsdb:"ofport"`
	Options     map[string]string `ovsdb:"options"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
	MAC         *string           `ovsdb:"mac"`
	MACInUse    *string           `ovsdb:"mac_in_use"`
	LinkState   *string           `ovsdb:"link_state"`
	AdminState  *string           `ovsdb:"admin_state"`
	Error       *string           `ovsdb:"error"`
	BFD         map[string]string `ovsdb:"bfd"`
	BFDStatus   map[string]string `ovsdb:"bfd_status"`
}

// Table names.
const (
	database       = "Open_vSwitch"
	tableRoot      = "Open_vSwitch"
	tableBridge    = "Bridge"
	tablePort      = "Port"
	tableInterface = "Interface"
)

// kind is the kind of object that a row is, as far as a Watch tells them apart.
type kind int

const (
	kindRoot kind = iota
	kindBridge
	kindPort
	kindInterface
)

func identify(row model.Model) (kind, string) {
	switch r := row.(type) {
	case *bridgeRow:
		return kindBridge, r.Name
	case *portRow:
		return kindPort, r.Name
	case *interfaceRow:
		return kindInterface, r.Name
	}
	return kindRoot, ""
}

// session is one connection, from the reading of the tables to its loss. The library's own reconnecting is not used: it
// replays rows into a live cache and panics when it gives up; a fresh client per connection starts from nothing instead.
type session struct {
	ctx    context.Context // ends when the connection is lost; its cause says why
	lose   context.CancelCauseFunc
	client client.Client
	cache  *cache.TableCache
	ended  chan struct{} // closed when the prober has ended
}

var errLost = errors.New("the connection was lost")

// open connects and reads the tables.
func (c *Client) open(ctx context.Context) (*session, error) {
	dbModel, err := model.NewClientDBModel(database, map[string]model.Model{
		tableRoot: &rootRow{}, tableBridge: &bridgeRow{}, tablePort: &portRow{}, tableInterface: &interfaceRow{},
	})
	if err != nil {
		return nil, fmt.Errorf("database model: %w", err)
	}
	logger := logr.FromSlogHandler(c.opts.Logger.Handler())
	db, err := client.NewOVSDBClient(dbModel, client.WithEndpoint(c.opts.Endpoint), client.WithLogger(&logger))
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", c.opts.Endpoint, err)
	}
	s := &session{client: db, ended: make(chan struct{})}
	s.ctx, s.lose = context.WithCancelCause(ctx)
	if err := s.start(c); err != nil {
		s.lose(err)
		db.Close()
		return nil, err
	}
	go s.probe(c.opts.ProbeInterval)
	return s, nil
}

func (s *session) start(c *Client) error {
	go s.notice(s.client.DisconnectNotify())
	ctx, cancel := context.WithTimeout(s.ctx, c.opts.DialTimeout)
	defer cancel()
	if err := s.client.Connect(ctx); err != nil {
		return err
	}
	if s.cache = s.client.Cache(); s.cache == nil {
		return errLost
	}
	s.cache.AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc: func(_ string, row model.Model) { c.event(s, row) },
		UpdateFunc: func(_ string, old, row model.Model) {
			c.event(s, row)
			if waits(old) && !waits(row) {
				c.restored(s)
			}
		},
		DeleteFunc: func(_ string, row model.Model) { c.event(s, row) },
	})
	_, err := s.client.Monitor(ctx, s.client.NewMonitor(monitored()...))
	return err
}

// monitored lists every column of the row types: with none listed the library asks for all columns of the table, and then
// stumbles over those that have no field here.
func monitored() []client.MonitorOption {
	var (
		r rootRow
		b bridgeRow
		p portRow
		i interfaceRow
	)
	return []client.MonitorOption{
		client.WithTable(&r, &r.Bridges, &r.NextCfg, &r.CurCfg, &r.Version, &r.OtherConfig),
		client.WithTable(&b, &b.Name, &b.DatapathType, &b.FailMode, &b.Protocols, &b.Ports, &b.ExternalIDs),
		client.WithTable(&p, &p.Name, &p.Tag, &p.Interfaces, &p.ExternalIDs),
		client.WithTable(&i, &i.Name, &i.Type, &i.OFPort, &i.Options, &i.ExternalIDs, &i.MAC, &i.MACInUse, &i.LinkState,
			&i.AdminState, &i.Error, &i.BFD, &i.BFDStatus),
	}
}

// event runs in the library's goroutine, after its cache has the row's new state.
func (c *Client) event(s *session, row model.Model) {
	k, name := identify(row)
	c.changed(s, k, name)
}

// waits reports whether a row says that ovs-vswitchd waits for its flows to be restored (ovs-vswitchd.conf.db(5),
// other_config:flow-restore-wait), as ovs-ctl(8) has it do whenever it starts it.
func waits(row model.Model) bool {
	r, ok := row.(*rootRow)
	return ok && r.OtherConfig["flow-restore-wait"] == "true"
}

// restored tells that flows have been restored: ovs-vswitchd waits no more.
func (c *Client) restored(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != c.session {
		return
	}
	for w := range c.watches {
		w.restored = true
		w.signal()
	}
}

// notice turns the library's word of a lost connection into the end of the session.
func (s *session) notice(lost <-chan struct{}) {
	select {
	case <-lost:
		s.lose(errLost)
	case <-s.ctx.Done():
	}
}

// probe ends the session when the server does not answer. It also catches a loss that happened before notice listened,
// which the library then tells nobody.
func (s *session) probe(interval time.Duration) {
	defer close(s.ended)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(s.ctx, interval)
		err := s.client.Echo(ctx)
		cancel()
		if err != nil {
			s.lose(fmt.Errorf("the server does not answer an echo: %w", err))
			return
		}
	}
}

// close ends the session. Calls of transact end first, because s.ctx has.
func (s *session) close() {
	s.lose(errLost)
	<-s.ended
	s.client.Close()
}

// tables gives the rows as the library holds them; it replaces rows, never changes them, so sharing is safe.
func (s *session) tables() tables {
	return tables{
		root:       rows[rootRow](s.cache, tableRoot),
		bridges:    rows[bridgeRow](s.cache, tableBridge),
		ports:      rows[portRow](s.cache, tablePort),
		interfaces: rows[interfaceRow](s.cache, tableInterface),
	}
}

func rows[T any](c *cache.TableCache, table string) map[string]*T {
	t := c.Table(table)
	if t == nil {
		return nil
	}
	shallow := t.RowsShallow()
	out := make(map[string]*T, len(shallow))
	for uuid, row := range shallow {
		if r, ok := row.(*T); ok {
			out[uuid] = r
		}
	}
	return out
}

// transact runs operations as one transaction. When it returns, the session's cache shows the transaction's effects: the
// server sends a monitor's update before the reply (RFC 7047 section 4.1.6), and the library reads them in that order.
func (s *session) transact(ctx context.Context, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrDisconnected) })
	defer stop()
	results, err := s.client.Transact(ctx, ops...)
	switch {
	case errors.Is(err, client.ErrNotConnected):
		return nil, ErrDisconnected
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("OVSDB transaction of %d operations: %w", len(ops), err)
	}
	return results, nil
}
