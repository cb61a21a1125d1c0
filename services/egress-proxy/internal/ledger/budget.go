package ledger

// budget is how much packs may send a day. Its owner locks it.
type budget struct {
	daily    int64 // 0 for no bound
	day      int64
	stored   map[string]int64  // what packs sent on day, at any replica, as the store last said
	unstored map[spender]int64 // what they sent here beside that, on day or before
}

type spender struct {
	packID string
	day    int64
}

func newBudget(daily int64) budget {
	return budget{daily: daily, unstored: make(map[spender]int64)}
}

func (b *budget) spend(packID string, day, n int64) bool {
	if day != b.day {
		b.day, b.stored = day, nil // nothing yet
	}
	who := spender{packID, day}
	if n > b.daily-b.stored[packID]-b.unstored[who] {
		return false
	}
	b.unstored[who] += n
	return true
}

// usage is what the store lacks.
func (b *budget) usage() []Usage {
	usage := make([]Usage, 0, len(b.unstored))
	for who, n := range b.unstored {
		usage = append(usage, Usage{PackID: who.packID, Day: who.day, Bytes: n})
	}
	return usage
}

// settle takes over what the store says of a day after it was given usage.
func (b *budget) settle(usage []Usage, totals map[string]int64, day int64) {
	for _, u := range usage {
		who := spender{u.PackID, u.Day}
		if b.unstored[who] -= u.Bytes; b.unstored[who] == 0 {
			delete(b.unstored, who)
		}
	}
	if day >= b.day {
		b.day, b.stored = day, totals
	}
}
