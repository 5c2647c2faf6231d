// Signing in and out. The token is posted once and kept nowhere; the browser keeps a cookie that no script can read.

import { session, signIn, signOut } from "./api.js";
import { byId, say, show } from "./dom.js";

export const whenSignedIn = async (begin) => {
  const state = await session();
  show(byId("sign-out"), state.asks_for_token && state.signed_in);
  show(byId("signing"), !state.signed_in);
  if (state.signed_in) begin();
  else byId("token").focus();
};

export const listen = (begin, end) => {
  byId("signing-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = byId("token");
    byId("signing-error").textContent = "";
    try {
      await signIn(field.value);
    } catch (refused) {
      byId("signing-error").textContent = refused.message;
      field.select();
      return;
    } finally {
      if (byId("signing-error").textContent === "") field.value = "";
    }
    say("Signed in");
    await whenSignedIn(begin);
    byId("main").focus();
  });
  byId("sign-out").addEventListener("click", async () => {
    await signOut();
    end();
    await whenSignedIn(begin);
    say("Signed out");
  });
};
