// The explorer: choose a user and a recommendation, see what moved it, event by event.
//
// It shows texts that noetik_rllib/report/explorer.py has written, always as text. It is revealed,
// and the static cards hidden, only once it has shown a user: if it fails, the cards stay.
"use strict";

(() => {
  const at = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(at("data").textContent);
  const users = data.users;
  let chosen = { user: 0, choice: 0 };

  /** An element with a class and a text; children, if any, come after the text. */
  function make(tag, className = "", text = "", ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    element.append(...children);
    return element;
  }

  /** A table cell that keeps its role where the style sheet lays rows out as blocks. */
  function cell(className, ...children) {
    const element = make("td", className, "", ...children);
    element.setAttribute("role", "cell");
    return element;
  }

  const direction = (size) => (size > 0 ? "for" : size < 0 ? "against" : "none");

  /** A bar to the right of its zero line for what speaks for the choice, else to the left. */
  function bar(size) {
    const fill = make("i");
    fill.style.width = `${50 * Math.abs(size)}%`;
    const element = make("span", "bar", "", fill);
    element.setAttribute("aria-hidden", "true");
    return element;
  }

  /** An influence as an item of a list: bar, effect, share, words. */
  function influence(effect, text) {
    return make(
      "li",
      direction(effect.size),
      "",
      bar(effect.size),
      make("span", "value", effect.effect, make("small", "", effect.share)),
      make("span", "text", "", make("span", "hidden", `${direction(effect.size)}: `), text),
    );
  }

  /** A row of the history, with its effect on the chosen video. */
  function row(event, effect) {
    const when = make("th", "when", event.age);
    when.scope = "row";
    when.setAttribute("role", "rowheader");
    const video = cell("video", make("span", "name", event.video));
    for (const [text, className] of [
      [event.about, "about"],
      [effect.common, "mark common"],
      [event.random && "drawn at random", "mark"],
      [effect.reason && `reason ${effect.reason}`, "mark reason"],
      [effect.decisive && "decisive", "mark decisive"],
      [effect.skipped && `if skipped: ${effect.skipped}`, "mark decisive"],
    ]) {
      if (text) video.append(" ", make("span", className, text));
    }
    const watched = cell("watched");
    if (event.watched !== null) {
      const part = make("i");
      part.style.width = `${100 * event.ratio}%`;
      const share = make("span", "share", "", part);
      share.setAttribute("aria-hidden", "true");
      // The column's name stands beside the share where there is no room for columns.
      watched.append(share, event.watched, make("span", "unit", ` ${data.watched}`));
    }
    const acts = cell("acts", event.acts.join(", ") || make("span", "nothing", "none"));
    const value = make("span", "value", effect.effect);
    const sign = make("span", "hidden", ` ${direction(effect.size)}`);
    const element = make(
      "tr",
      `${direction(effect.size)}${effect.decisive ? " decisive" : ""}`,
      "",
      when,
      video,
      watched,
      acts,
      cell("effect", make("div", "", "", bar(effect.size), value, sign)),
    );
    element.setAttribute("role", "row");
    return element;
  }

  function showReasons(choice) {
    const items = choice.reasons.map((reason) => influence(reason, reason.text));
    at("reasons").replaceChildren(...(items.length ? items : [make("li", "", "None.")]));
    at("unnamed").textContent = choice.unnamed;
    at("counterfactual").hidden = !choice.changes;
    at("changes").textContent = choice.changes;
    at("split").replaceChildren(
      ...choice.sources
        .filter((source) => source.size > 0)
        .map((source) => {
          const part = make("i", source.name);
          part.style.flexGrow = source.size;
          return part;
        }),
    );
    at("legend").replaceChildren(
      ...choice.sources.map((source) => make("span", source.name, `${source.name} ${source.share}`)),
    );
  }

  function showHistory(user, choice) {
    const count = user.history.length;
    const events = `${count} event${count === 1 ? "" : "s"}`;
    const notes = [count ? "Newest first. All bars of a choice have the same scale." : ""];
    if (choice.events.some((effect) => effect.decisive)) {
      notes.push("Without the events marked decisive, another video takes its place.");
    }
    at("history-title").textContent = count
      ? `What they watched: ${events}, each with its effect`
      : "No watched video is on record";
    at("history-note").textContent = notes.join(" ");
    at("events").parentElement.hidden = !count;
    at("events").replaceChildren(
      ...user.history.map((event, place) => row(event, choice.events[place])),
    );
  }

  /** Profile and situation, strongest first; what hardly matters is folded away. */
  function showFeatures(user, choice) {
    const places = user.features.map((_, place) => place);
    const strength = (place) => Math.abs(choice.features[place].size);
    places.sort((first, second) => strength(second) - strength(first));
    const items = (chosenPlaces) =>
      chosenPlaces.map((place) => influence(choice.features[place], user.features[place]));
    const isMinor = (place) => choice.minor.includes(place);
    at("features").replaceChildren(...items(places.filter((place) => !isMinor(place))));
    at("minor").replaceChildren(...items(places.filter(isMinor)));
    at("minor").parentElement.hidden = !choice.minor.length;
    at("minor-count").textContent =
      `${choice.minor.length} of them with less than 1% of all influence each`;
  }

  function showChoice() {
    const user = users[chosen.user];
    const choice = user.choices[chosen.choice];
    at("title").replaceChildren(
      make("span", "", `User ${user.name}`),
      make("span", "arrow", " → "),
      make("span", "", choice.video),
    );
    at("sentence").textContent = choice.sentence;
    at("facts").replaceChildren(
      ...choice.facts.map(([name, value, remark]) =>
        make(
          "div",
          "",
          "",
          make("dt", "", name),
          make("dd", "", value, ...(remark ? [" ", make("small", "", remark)] : [])),
        ),
      ),
    );
    showReasons(choice);
    showHistory(user, choice);
    showFeatures(user, choice);
    at("error").textContent = choice.error;
  }

  function showUser() {
    const user = users[chosen.user];
    at("user").value = String(chosen.user);
    at("place").textContent = `${chosen.user + 1} of ${users.length}${
      user.heldOut ? ", held out: the policy learnt nothing from this user" : ""
    }`;
    at("profile").textContent = user.profile;
    at("choices").replaceChildren(
      ...user.choices.map((choice, place) => {
        const input = make("input");
        input.type = "radio";
        input.name = "explorer-choice";
        input.value = String(place);
        input.checked = place === chosen.choice;
        input.addEventListener("change", () => choose({ user: chosen.user, choice: place }));
        return make(
          "label",
          "choice",
          "",
          input,
          make("span", "rank", `${choice.rank}.`),
          make("span", "", choice.video),
          make("span", "probability", choice.probability),
        );
      }),
    );
    showChoice();
  }

  /** Show a user and a choice, keep them in the address, and say so to screen readers. */
  function choose(next) {
    const sameUser = next.user === chosen.user;
    chosen = next;
    if (sameUser) showChoice();
    else showUser();
    const user = users[chosen.user];
    const choice = user.choices[chosen.choice];
    const address = new URLSearchParams({ user: user.name, choice: choice.rank });
    history.replaceState(null, "", `#${address}`);
    at("status").textContent =
      `User ${user.name}, choice ${choice.rank}: ${choice.video}, ` +
      `probability ${choice.probability}.`;
  }

  /** What the address asks for; null where it asks for no user, or is the anchor of a section. */
  function fromAddress() {
    const address = new URLSearchParams(location.hash.slice(1));
    const name = address.get("user");
    if (name === null) return null;
    const user = users.findIndex((one) => one.name === name);
    if (user < 0) {
      at("status").textContent = `User ${name} is not on this page.`;
      return null;
    }
    const ranks = users[user].choices.map((one) => String(one.rank));
    return { user, choice: Math.max(0, ranks.indexOf(address.get("choice"))) };
  }

  function follow() {
    const asked = fromAddress();
    if (asked === null) return;
    chosen = asked;
    showUser();
    document.getElementById("explorer").scrollIntoView();
  }

  const step = (by) => () =>
    choose({ user: (chosen.user + by + users.length) % users.length, choice: 0 });

  at("user").replaceChildren(
    ...users.map((user, place) => {
      const option = make("option", "", user.name);
      option.value = String(place);
      return option;
    }),
  );
  at("user").addEventListener("change", () => choose({ user: Number(at("user").value), choice: 0 }));
  at("previous").addEventListener("click", step(-1));
  at("next").addEventListener("click", step(1));
  window.addEventListener("hashchange", follow);
  const table = at("events").parentElement;
  table.classList.toggle("unwatched", data.watched === null);
  at("watched").textContent = data.watched ?? "";

  showUser();
  document.getElementById("explorer").hidden = false;
  document.getElementById("cards").hidden = true;
  follow();
})();
