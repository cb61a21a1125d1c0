package quota

// budget is the arithmetic of Quota, which locks it.
type budget struct {
	daily  int64 // 0 for no bound
	day    int64 // of totals
	totals map[string]int64
	// unstored are bytes that the store's totals don't have yet. A key has its day, since bytes of a day that has just ended
	// must not count for the new one.
	unstored map[packDay]int64
}

type packDay struct {
	packID string
	day    int64
}

func newBudget(daily int64) budget {
	return budget{daily: daily, unstored: make(map[packDay]int64)}
}

func (b *budget) spend(packID string, day, n int64) bool {
	if day != b.day {
		b.day, b.totals = day, nil // a new day begins with nothing spent
	}
	key := packDay{packID, day}
	if n > b.daily-b.totals[packID]-b.unstored[key] {
		return false
	}
	b.unstored[key] += n
	return true
}

// usage is what the store lacks. It stays in unstored until stored is called: it counts while the store is written.
func (b *budget) usage() []Usage {
	usage := make([]Usage, 0, len(b.unstored))
	for key, n := range b.unstored {
		usage = append(usage, Usage{PackID: key.packID, Day: key.day, Bytes: n})
	}
	return usage
}

// stored takes usage off what isn't stored, and takes over the totals of day, in which it is contained. Bytes that were spent
// while usage was being stored stay in unstored.
func (b *budget) stored(usage []Usage, totals map[string]int64, day int64) {
	for _, u := range usage {
		key := packDay{u.PackID, u.Day}
		if b.unstored[key] -= u.Bytes; b.unstored[key] == 0 {
			delete(b.unstored, key)
		}
	}
	if day >= b.day { // else midnight passed meanwhile: these are yesterday's
		b.day, b.totals = day, totals
	}
}
