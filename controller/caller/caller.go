// Package caller says who makes a call of the API and what kinds of call they may make: it tells callers by certificate or
// bearer token, and holds the one table of methods and roles. Whose objects somebody may see or change is decided where
// the objects are read, package api, by what a Caller says. It knows no object and asks no store.
package caller

import (
	"context"
	"slices"
	"time"
)

// Role is what a caller may do, in the projects that they are of, unless it says otherwise. Each includes the one before.
type Role int

// The roles.
const (
	Nobody   Role = iota
	Reader        // sees
	Member        // sees and changes
	Operator      // besides sees every project, and works on what projects rest on: nodes, pools, segments
	Admin         // may do everything, everywhere
)

var roleNames = [...]string{Nobody: "nobody", Reader: "reader", Member: "member", Operator: "operator", Admin: "admin"}

// String is the role's name, as in a file of users.
func (r Role) String() string { return roleNames[r] }

// one is somebody of the role.
func (r Role) one() string {
	if r >= Operator {
		return "an " + r.String()
	}
	return "a " + r.String()
}

// ParseRole is the role of a name.
func ParseRole(name string) (Role, bool) {
	i := slices.Index(roleNames[:], name)
	return Role(max(i, 0)), i >= 0
}

// Caller is who makes a call. The zero value is nobody, who may do nothing. It is a value: what it says does not change
// while the call lasts.
type Caller struct {
	// Name is the user's, for logs.
	Name     string
	Role     Role
	Projects []string
	// Until is when what the caller is known by ends; zero: it does not say.
	Until time.Time
}

// Of reports whether the caller is of a project, or an admin, who is of all.
func (c Caller) Of(project string) bool {
	return c.Role == Admin || slices.Contains(c.Projects, project)
}

// Sees reports whether the caller sees what is a project's own.
func (c Caller) Sees(project string) bool {
	return c.Role >= Operator || c.Role >= Reader && slices.Contains(c.Projects, project)
}

// Changes reports whether the caller may change what is a project's own.
func (c Caller) Changes(project string) bool { return c.Role >= Member && c.Of(project) }

// Operates reports whether the caller sees and decides how objects lie on the fleet: on which nodes, in which segments.
func (c Caller) Operates() bool { return c.Role >= Operator }

type key struct{}

// With is a context of a call that somebody makes.
func With(ctx context.Context, c Caller) context.Context { return context.WithValue(ctx, key{}, c) }

// From is who makes the call of a context; nobody when it does not say.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(key{}).(Caller)
	return c
}
