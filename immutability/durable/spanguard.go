package durable

import (
	"errors"
	"io/fs"
)

// Hold implements Guard.
func (s *Span) Hold(name string) (Held, error) {
	h, err := s.find("hold", name, true)
	if err != nil {
		return nil, err
	}
	held, err := h.p.Disk.Hold(name)
	return held, h.p.named(err)
}

// Flags implements Guard. The root and a shared directory have the flags that they have in every place.
func (s *Span) Flags(name string) (Flags, error) {
	if name != "." && !s.shared(name) {
		h, err := s.find("flags", name, false)
		if err != nil {
			return 0, err
		}
		f, err := h.p.Disk.Flags(name)
		return f, h.p.named(err)
	}
	all := Immutable | AppendOnly
	for _, p := range s.places {
		if p.Disk == nil {
			return 0, p.away("flags", name)
		}
		f, err := p.Disk.Flags(name)
		if err != nil {
			return 0, p.named(err)
		}
		all &= f
	}
	return all, nil
}

// SetFlags implements Guard. The root and a shared directory get flags in every place. The root loses them in the first
// alone, where names are replaced.
func (s *Span) SetFlags(name string, set, lift Flags) error {
	if name != "." && !s.shared(name) {
		h, err := s.find("flags", name, true)
		if err != nil {
			return err
		}
		return h.p.named(h.p.Disk.SetFlags(name, set, lift))
	}
	var errs []error
	for i, p := range s.places {
		if p.Disk == nil {
			errs = append(errs, p.away("flags", name))
			continue
		}
		off := lift
		if name == "." && i > 0 {
			off = 0
		}
		errs = append(errs, p.named(s.changeDirs(p, func() error { return p.Disk.SetFlags(name, set, off) }, name)))
	}
	return errors.Join(errs...)
}

// Chmod implements Guard. Of the root and a shared directory it changes those that have no flags: the others were given
// their permissions when they got them.
func (s *Span) Chmod(name string, perm fs.FileMode) error {
	if name != "." && !s.shared(name) {
		h, err := s.find("chmod", name, true)
		if err != nil {
			return err
		}
		return h.p.named(h.p.Disk.Chmod(name, perm))
	}
	for _, p := range s.places {
		if p.Disk == nil {
			return p.away("chmod", name)
		}
		f, err := p.Disk.Flags(name)
		if errors.Is(err, errors.ErrUnsupported) {
			f, err = 0, nil
		}
		if err == nil && f == 0 {
			err = p.Disk.Chmod(name, perm)
		}
		if err != nil {
			return p.named(err)
		}
	}
	return nil
}

// removeFinal is RemoveFinal in the places that have the names, one after another, so that no other directory is without its
// flag for it. A power cut between two places leaves what one in the middle of RemoveFinal leaves.
func (s *Span) removeFinal(dir string, names []string) error {
	if dir != s.o.Sealed {
		return RemoveFinal(s.places[0].Disk, dir, names)
	}
	in := map[*stage][]string{}
	for _, name := range names {
		h, err := s.find("remove", name, true)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		in[h.p] = append(in[h.p], name)
	}
	var errs []error
	for i, p := range s.places {
		if p.Disk == nil {
			errs = append(errs, p.away("remove", dir))
			continue
		}
		if len(in[p]) == 0 {
			errs = append(errs, s.closePlace(i, dir))
			continue
		}
		errs = append(errs, p.named(s.changeDirs(p, func() error { return RemoveFinal(p.Disk, dir, in[p]) }, dir)))
	}
	return errors.Join(errs...)
}

// closePlace is RemoveFinal of names that are absent: they are so durably, and the directory has its flag.
func (s *Span) closePlace(i int, dir string) error {
	p := s.places[i]
	f, err := p.Disk.Flags(dir)
	if err == nil && f&AppendOnly == 0 {
		err = s.changeDirs(p, func() error { return p.Disk.SetFlags(dir, AppendOnly, 0) }, dir)
	}
	return errors.Join(p.named(err), s.syncPlace(i, dir))
}
