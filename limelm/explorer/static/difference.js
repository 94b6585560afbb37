// Differences: what one model has and another has not, where the two can be subtracted; else why they cannot.

const sameList = (one, other) => one.length === other.length && one.every((value, i) => value === other[i]);

/** Why two models' tokens cannot be set side by side; an empty text where they can. */
function tokensDiffer(one, other) {
  const same = sameList(one.tokens.map(({ id }) => id), other.tokens.map(({ id }) => id));
  return same ? "" : "the two models split the sentence into different tokens";
}

/** Why two models' places cannot be subtracted; an empty text where they can. */
function placesDiffer(one, other) {
  if (!one.places.length || !other.places.length) return "one of the two has no layers that choose what they read";
  if (!sameList(one.places.map(({ place }) => place), other.places.map(({ place }) => place))) {
    return `one has ${one.places.length} places with a choice, the other ${other.places.length}`;
  }
  for (const [i, place] of one.places.entries()) {
    const against = other.places[i];
    if (!sameList(place.sources, against.sources)) return `${place.name} reads different sources in the two`;
    if (!sameList(place.rows.map(rowKey), against.rows.map(rowKey))) {
      return `${place.name} has different heads in the two`;
    }
  }
  return "";
}

/** Why the weights cannot be subtracted, for one token or for the sentence. */
function weightsDiffer(one, other, t) {
  const reason = placesDiffer(one, other) || (t === null ? "" : tokensDiffer(one, other));
  if (reason) return reason;
  const place = one.places.find(({ columns }, i) => columns !== other.places[i].columns);
  return place ? `a head of ${place.name} has different numbers of weights for a source in the two` : "";
}

function effectsDiffer(one, other, t) {
  const reason = placesDiffer(one, other) || (t === null ? "" : tokensDiffer(one, other));
  if (reason) return reason;
  const known = [...one.places, ...other.places].every(({ effects }) => effects);
  return known ? "" : "effects were not measured for both";
}

function lensesDiffer(one, other, lens) {
  if (!one[lens] || !other[lens]) return "one of the two has no such lens";
  if (one[lens].names.length !== other[lens].names.length) return "the two have different numbers of representations";
  return tokensDiffer(one, other);
}

const minus = (one, other) => (one && other ? one.map((value, i) => value - other[i]) : null);
