// What a view needs outside a notebook: a model with anywidget's methods, kept here.

/** values: trait name -> value. A view cannot tell it from a notebook's model. */
export function localModel(values) {
  const held = new Map(Object.entries(values));
  const listeners = new Map(); // event -> Set of functions
  const tell = (event) => [...(listeners.get(event) ?? [])].forEach((run) => run());
  return {
    get: (name) => held.get(name),
    set(name, value) {
      if (held.get(name) === value) return;
      held.set(name, value);
      tell(`change:${name}`);
      tell("change");
    },
    save_changes() {},
    on(event, run) {
      if (!listeners.has(event)) listeners.set(event, new Set());
      listeners.get(event).add(run);
    },
    off(event, run) {
      if (run) listeners.get(event)?.delete(run);
      else listeners.delete(event);
    },
  };
}
