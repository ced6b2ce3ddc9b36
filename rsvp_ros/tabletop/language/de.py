"""German."""

from __future__ import annotations

import re
from typing import ClassVar

from rsvp_ros.tabletop.descriptions import HANDLED, Description
from rsvp_ros.tabletop.language.grammar import ChainWords, Grammar, Phrase
from rsvp_ros.tabletop.language.training_de import PARAPHRASES
from rsvp_ros.tabletop.language.training_de import USES as TRAINING_USES
from rsvp_ros.tabletop.queries import Beside, Between, Every, Except, Extreme, NearestEdge, NextTo, Only, Ordinal, Query
from rsvp_ros.tabletop.view import ObjectView

# Gender, singular|plural
NOUNS = {
    "mug": ("f Tasse|Tassen", "f Kaffeetasse|Kaffeetassen", "~m Kaffeebecher|Kaffeebecher"),
    "cup": ("m Pappbecher|Pappbecher", "m Papierbecher|Papierbecher", "~m Einwegbecher|Einwegbecher"),
    "bottle": ("f Flasche|Flaschen", "f Plastikflasche|Plastikflaschen"),
    "bowl": ("f Schüssel|Schüsseln", "f Schale|Schalen"),
    "plate": ("m Teller|Teller",),
    "teapot": ("f Teekanne|Teekannen",),
    "pan": ("f Pfanne|Pfannen", "f Bratpfanne|Bratpfannen"),
    "knife": ("n Messer|Messer", "~n Küchenmesser|Küchenmesser"),
    "fork": ("f Gabel|Gabeln",),
    "spoon": ("m Löffel|Löffel",),
    "scissors": ("f Schere|Scheren",),
    "hammer": ("m Hammer|Hämmer",),
    "screwdriver": ("m Schraubenzieher|Schraubenzieher", "m Schraubendreher|Schraubendreher"),
    "spanner": ("m Schraubenschlüssel|Schraubenschlüssel", "m Maulschlüssel|Maulschlüssel"),
    "tape": ("n Klebeband|Klebebänder", "f Rolle Klebeband|Rollen Klebeband", "~f Klebebandrolle|Klebebandrollen"),
    "book": ("n Buch|Bücher",),
    "pen": ("m Kugelschreiber|Kugelschreiber", "m Stift|Stifte", "~m Kuli|Kulis"),
    "phone": ("n Handy|Handys", "n Telefon|Telefone", "n Smartphone|Smartphones", "~n Mobiltelefon|Mobiltelefone"),
    "remote": ("f Fernbedienung|Fernbedienungen", "~f TV-Fernbedienung|TV-Fernbedienungen"),
    "battery": ("f Batterie|Batterien",),
    "key": ("m Schlüssel|Schlüssel", "~m Haustürschlüssel|Haustürschlüssel"),
    "banana": ("f Banane|Bananen",),
    "apple": ("m Apfel|Äpfel",),
    "orange": ("f Orange|Orangen", "~f Apfelsine|Apfelsinen"),
    "pear": ("f Birne|Birnen",),
    "lemon": ("f Zitrone|Zitronen",),
    "carrot": ("f Karotte|Karotten", "f Möhre|Möhren", "~f Mohrrübe|Mohrrüben"),
    "can": ("f Dose|Dosen", "f Blechdose|Blechdosen", "~f Metalldose|Metalldosen"),
    "box": ("f Schachtel|Schachteln", "m Karton|Kartons", "~f Pappschachtel|Pappschachteln"),
    "candle": ("f Kerze|Kerzen",),
    "sponge": ("m Schwamm|Schwämme", "~m Spülschwamm|Spülschwämme"),
    "ball": ("m Ball|Bälle", "m Gummiball|Gummibälle"),
    "cube": ("m Holzwürfel|Holzwürfel", "m Würfel|Würfel", "m Holzklotz|Holzklötze"),
}
CATEGORY_NOUNS = {
    "fruit": ("n Stück Obst|Stücke Obst", "f Frucht|Früchte"),
    "cutlery": ("n Besteckteil|Besteckteile",),
    "tool": ("n Werkzeug|Werkzeuge",),
    "crockery": ("n Geschirrteil|Geschirrteile", "~n Geschirrstück|Geschirrstücke"),
    "electronics": ("n Elektrogerät|Elektrogeräte",),
    "food": ("n Lebensmittel|Lebensmittel", "~n Nahrungsmittel|Nahrungsmittel"),
}
# Neuter and the same in nominative and accusative
TOGETHER = {
    "fruit": ("das ganze Obst", "das gesamte Obst"),
    "cutlery": ("das ganze Besteck", "~das gesamte Besteck"),
    "crockery": ("das ganze Geschirr", "~das gesamte Geschirr"),
}
THING = ("m Gegenstand|Gegenstände", "n Ding|Dinge", "~n Objekt|Objekte")
# Stems; one that ends in "=" takes no ending
COLORS = {
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "lila=",
    "pink": "rosa=",
    "brown": "braun",
    "white": "weiß",
    "black": "schwarz",
    "gray": "grau",
    "silver": "silbern",
}
PATTERNS = {"striped": ("gestreift",), "dotted": ("gepunktet", "~getupft"), "checked": ("kariert",)}
MATERIALS = {"wood": ("aus Holz", "~hölzern"), "metal": ("aus Metall",), "ceramic": ("aus Keramik",)}
ORDINALS = ("erst", "zweit", "dritt", "viert", "fünft", "sechst")
ARTICLES = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
RELATIVE = {"m": "der", "f": "die", "n": "das", "p": "die"}
# "etwas zum …", "womit ich …"
USES = {
    "cut": (
        ("zum Durchschneiden des Seils", "womit ich das Seil durchschneiden kann"),
        ("zum Schneiden der Schnur", "womit ich die Schnur abschneiden kann"),
        ("~zum Kürzen des Fadens", "womit ich den Faden kürzen kann"),
    ),
    "drink": (
        ("zum Teetrinken", "woraus ich meinen Tee trinken kann"),
        ("zum Kaffeetrinken", "woraus ich Kaffee trinken kann"),
    ),
    "pour": (
        ("zum Einschenken", "woraus ich ein Getränk einschenken kann"),
        ("zum Füllen der Gläser", "womit ich die Gläser füllen kann"),
    ),
    "eat_soup": (
        ("zum Suppeessen", "womit ich meine Suppe essen kann"),
        ("zum Umrühren des Kaffees", "womit ich den Kaffee umrühren kann"),
        ("~zum Joghurtessen", "womit ich Joghurt essen kann"),
    ),
    "spear": (
        ("zum Aufdrehen der Spaghetti", "womit ich Spaghetti aufdrehen kann"),
        ("zum Spaghettiessen", "womit ich die Spaghetti essen kann"),
    ),
    "drive_nail": (
        ("zum Einschlagen eines Nagels", "womit ich einen Nagel in die Wand schlagen kann"),
        ("zum Nageln", "womit ich einen Nagel einschlagen kann"),
    ),
    "turn_screw": (
        ("zum Festziehen einer Schraube", "womit ich eine Schraube festziehen kann"),
        ("zum Herausdrehen einer Schraube", "womit ich eine Schraube herausdrehen kann"),
    ),
    "loosen_nut": (
        ("zum Lösen einer Mutter", "womit ich eine Schraubenmutter lösen kann"),
        ("zum Anziehen einer Schraubenmutter", "womit ich eine Sechskantmutter anziehen kann"),
    ),
    "write": (
        ("zum Schreiben", "womit ich schreiben kann"),
        ("zum Unterschreiben", "womit ich den Vertrag unterschreiben kann"),
        ("~zum Notieren einer Adresse", "womit ich eine Adresse notieren kann"),
    ),
    "read": (
        ("zum Lesen", "worin ich lesen kann"),
        ("zum Vorlesen", "woraus ich den Kindern vorlesen kann"),
        ("~zum Schmökern", "worin ich schmökern kann"),
    ),
    "call": (
        ("zum Telefonieren", "womit ich meine Mutter anrufen kann"),
        ("zum Anrufen", "womit ich telefonieren kann"),
    ),
    "switch_tv": (
        ("zum Einschalten des Fernsehers", "womit ich den Fernseher einschalten kann"),
        ("zum Umschalten des Programms", "womit ich das Programm wechseln kann"),
    ),
    "snack": (
        ("Gesundes zum Naschen", "was ich als gesunden Snack essen kann"),
        ("Gesundes für zwischendurch", "was ich zwischendurch als gesunden Snack essen kann"),
    ),
    "power": (
        ("zum Betreiben der Wanduhr", "womit die Wanduhr wieder läuft"),
        ("zum Einlegen in die Taschenlampe", "womit die Taschenlampe wieder leuchtet"),
    ),
    "wipe": (
        ("zum Abwischen des Tisches", "womit ich den Tisch abwischen kann"),
        ("zum Abwaschen", "womit ich das Geschirr spülen kann"),
        ("~zum Schrubben der Spüle", "womit ich die Spüle schrubben kann"),
    ),
    "throw": (
        ("zum Werfen und Fangen", "womit wir Werfen und Fangen spielen können"),
        ("zum Spielen mit dem Hund", "womit der Hund spielen kann"),
    ),
    "light": (
        ("zum Anzünden bei Stromausfall", "was bei Stromausfall Licht gibt"),
        ("für gemütliches Licht", "was gemütliches Licht macht"),
    ),
    "stick": (
        ("zum Zusammenkleben von zwei Blättern", "womit ich zwei Blätter zusammenkleben kann"),
        ("zum Zukleben eines Pakets", "womit ich ein Paket zukleben kann"),
    ),
    "unlock": (
        ("zum Aufschließen der Tür", "womit ich die Tür aufschließen kann"),
        ("zum Öffnen des Schlosses", "womit ich das Schloss öffnen kann"),
    ),
    "serve_soup": (
        ("zum Servieren der Suppe", "worin ich die Suppe servieren kann"),
        ("für mein Müsli", "woraus ich mein Müsli essen kann"),
    ),
    "fry": (
        ("zum Braten eines Spiegeleis", "worin ich ein Ei braten kann"),
        ("zum Pfannkuchenbacken", "worin ich Pfannkuchen backen kann"),
    ),
    "make_tea": (
        ("zum Teekochen", "worin ich Tee für alle kochen kann"),
        ("zum Aufgießen von Tee", "worin ich Tee aufgießen kann"),
    ),
}
HAZARDS = {
    "rolls": ("vom Tisch rollen könnte", "wegrollen könnte"),
    "breaks": ("zerbrechen würde, wenn es herunterfiele", "beim Herunterfallen in Scherben ginge"),
    "cuts": ("ein Kind schneiden könnte", "für ein Kleinkind zu scharf ist"),
}
SIDES = {
    "left": ("links von", "~linker Hand von"),
    "right": ("rechts von", "~rechter Hand von"),
    "front": ("vor",),
    "behind": ("hinter",),
}
NEAR = ("neben", "direkt neben", "gleich neben", "~nahe bei")
SUPERLATIVES = {
    "largest": ("größt",),
    "smallest": ("kleinst", "~winzigst"),
    "longest": ("längst",),
    "shortest": ("kürzest",),
    "tallest": ("höchst",),
}


class German(Grammar):
    language = "de"
    PARAPHRASES = PARAPHRASES
    GIVE = (
        "gib mir {x:acc}.",
        "reich mir bitte {x:acc}.",
        "kannst du mir {x:acc} geben?",
        "könntest du mir bitte {x:acc} bringen?",
        "ich brauche {x:acc}.",
        "ich hätte gern {x:acc}.",
        "ich suche {x:acc}.",
        "hol mir {x:acc}.",
        "nimm bitte {x:acc}.",
        "bring mir {x:acc}.",
        "~wärst du so nett, mir {x:acc} zu geben?",
        "~greif dir {x:acc}.",
        "~ich könnte {x:acc} gebrauchen.",
    )
    WHERE = (
        "wo [ist|sind] {x:nom}?",
        "zeig mir {x:acc}.",
        "zeig auf {x:acc}.",
        "finde {x:acc}.",
        "markiere {x:acc} im Bild.",
        "siehst du {x:acc}?",
        "~wo [befindet|befinden] sich {x:nom}?",
        "~entdeckst du {x:acc}?",
    )
    ANY = (
        "gibt es hier {x:acc}?",
        "siehst du {x:acc}?",
        "such mir {x:acc}.",
        "findest du {x:acc}?",
        "~hast du {x:acc} für mich?",
    )
    PLACE = (
        "was ist {place}?",
        "was liegt {place}?",
        "was siehst du {place}?",
        "was befindet sich {place}?",
        "zeig mir, was {place} ist.",
        "gib mir, was {place} liegt.",
        "nimm bitte das, was {place} ist.",
        "~sag mir, was sich {place} befindet.",
        "~was kannst du {place} entdecken?",
    )
    ALL = (
        "gib mir {x:acc}.",
        "nimm {x:acc}.",
        "zeig mir {x:acc}.",
        "finde {x:acc}.",
        "kannst du {x:acc} einsammeln?",
        "leg bitte {x:acc} in den Korb.",
        "wo [ist|sind] {x:nom}?",
        "ich brauche {x:acc}.",
        "markiere {x:acc} im Bild.",
        "räum bitte {x:acc} weg.",
        "~such {x:acc} zusammen.",
        "~würdest du bitte {x:acc} abräumen?",
    )
    NEEDS: ClassVar = {
        "cut": (
            "ich muss dieses Seil durchschneiden.",
            "diese Schnur ist zu lang, ich will sie kürzen.",
            "womit kann ich den Faden abschneiden?",
            "~das Seil muss in zwei Teile.",
        ),
        "drink": ("ich möchte Kaffee trinken. Woraus trinke ich ihn?", "woraus kann ich meinen Tee trinken?"),
        "pour": ("woraus kann ich die Getränke einschenken?", "womit fülle ich die Gläser?"),
        "eat_soup": (
            "womit esse ich meine Suppe?",
            "ich muss den Kaffee umrühren.",
            "~die Suppe ist fertig, womit esse ich sie?",
        ),
        "spear": ("womit drehe ich die Spaghetti auf?", "ich will Spaghetti essen. Womit drehe ich sie auf?"),
        "drive_nail": (
            "ich muss einen Nagel in die Wand schlagen.",
            "dieser Nagel steht vor, ich will ihn einschlagen.",
            "ich hänge ein Bild auf und habe den Nagel schon. Was brauche ich noch?",
            "~der Nagel muss ins Brett.",
        ),
        "turn_screw": (
            "diese Schraube ist locker.",
            "ich muss eine Schraube festziehen.",
            "~ich will das Regal zusammenschrauben.",
        ),
        "loosen_nut": (
            "diese Schraubenmutter sitzt fest.",
            "ich muss eine Mutter anziehen.",
            "die Sechskantmutter muss ab.",
        ),
        "write": (
            "ich will mir eine Telefonnummer aufschreiben.",
            "ich muss dieses Formular unterschreiben.",
            "~ich möchte mir etwas notieren.",
        ),
        "read": (
            "mir ist langweilig, ich möchte lesen.",
            "ich will den Kindern eine Geschichte vorlesen.",
            "~ein guter Roman wäre jetzt schön.",
        ),
        "call": ("ich muss meine Mutter anrufen.", "ich will beim Arzt anrufen.", "~ich muss dringend telefonieren."),
        "switch_tv": (
            "ich möchte fernsehen.",
            "der Fernseher ist zu laut.",
            "schalte bitte um, ich will ein anderes Programm sehen.",
            "~diese Sendung im Fernsehen gefällt mir nicht.",
        ),
        "snack": ("ich habe Lust auf etwas Süßes und Gesundes.", "was kann ich als gesunden Snack essen?"),
        "power": (
            "die Uhr ist stehen geblieben, sie hat keinen Strom.",
            "meine Taschenlampe geht nicht mehr.",
            "~das Spielzeugauto hat keinen Strom mehr.",
        ),
        "wipe": (
            "meine Hände sind schmutzig.",
            "ich habe Milch verschüttet.",
            "der Tisch klebt.",
            "~das Geschirr muss gespült werden.",
        ),
        "throw": (
            "der Hund will spielen.",
            "lass uns Werfen und Fangen spielen.",
            "~die Kinder wollen draußen spielen.",
        ),
        "light": (
            "der Strom ist ausgefallen und es ist dunkel.",
            "ich hätte gern romantisches Licht zum Essen.",
            "~jemand hat Geburtstag, was zünden wir an?",
        ),
        "stick": (
            "die Seite ist gerissen, ich will sie reparieren.",
            "ich muss dieses Paket zukleben.",
            "~wie mache ich das Poster an der Wand fest?",
        ),
        "unlock": ("die Tür ist abgeschlossen.", "ich komme nicht ins Haus.", "~ich muss das Schloss öffnen."),
        "serve_soup": ("woraus kann ich mein Müsli essen?", "die Suppe ist heiß, worin serviere ich sie?"),
        "fry": ("ich will ein Ei braten.", "lass uns Pfannkuchen backen.", "~ich habe Lust auf Spiegelei."),
        "make_tea": ("ich will Tee für vier Personen kochen.", "die Gäste möchten Tee. Worin koche ich ihn?"),
    }
    DANGERS: ClassVar = {
        "rolls": (
            "was könnte vom Tisch rollen?",
            "welcher Gegenstand könnte wegrollen?",
            "der Tisch kippt: Was würde herunterrollen?",
            "vorsicht, etwas könnte vom Tisch rollen.",
            "halt fest, was vom Tisch rollen könnte.",
            "gibt es etwas, das herunterrollen könnte?",
            "zeig mir, was wegrollen könnte.",
            "nimm weg, was vom Tisch rollen könnte.",
            "~was bleibt nicht liegen, wenn jemand gegen den Tisch stößt?",
        ),
        "breaks": (
            "was würde zerbrechen, wenn es herunterfiele?",
            "welcher Gegenstand würde auf dem Boden in Scherben gehen?",
            "gibt es etwas, das beim Herunterfallen zerbricht?",
            "stell weg, was beim Herunterfallen zerbrechen würde.",
            "sei vorsichtig mit dem, was zerbrechen könnte.",
            "zeig mir, was bei einem Sturz kaputtginge.",
            "was darf nicht herunterfallen, weil es zersplittern würde?",
            "~was ist hier zerbrechlich?",
        ),
        "cuts": (
            "woran könnte sich ein Kind schneiden?",
            "ein Kleinkind kommt: Nimm den scharfen Gegenstand weg.",
            "was ist zu scharf für ein kleines Kind?",
            "gibt es etwas Scharfes, an dem sich ein Kind verletzen könnte?",
            "räum weg, woran sich ein Kind schneiden könnte.",
            "zeig mir den scharfen Gegenstand.",
            "womit sollten Kinder nicht spielen, weil es scharf ist?",
            "~womit könnte man sich in den Finger schneiden?",
        ),
        "edge": (
            "was ist am nächsten an der Tischkante?",
            "welcher Gegenstand ist der Tischkante am nächsten?",
            "was liegt ganz nah an der Tischkante?",
            "schieb weg, was der Tischkante am nächsten ist.",
            "zeig mir den Gegenstand, der am nächsten an der Kante ist.",
            "etwas ist zu nah an der Tischkante. Bitte schieb es weg.",
            "was könnte am leichtesten vom Tisch gestoßen werden, weil es so nah an der Kante ist?",
            "~rück das zurück, was der Tischkante am nächsten ist.",
        ),
    }
    ALL_DANGERS: ClassVar = {
        "rolls": (
            "zeig mir alles, was vom Tisch rollen könnte.",
            "welche Gegenstände könnten wegrollen?",
            "finde alles, was herunterrollen könnte.",
            "~nimm alle Dinge weg, die rollen würden.",
        ),
        "breaks": (
            "zeig mir alles, was zerbrechen würde, wenn es herunterfiele.",
            "welche Gegenstände würden auf dem Boden in Scherben gehen?",
            "stell alles weg, was beim Herunterfallen zerbrechen würde.",
            "~welche Dinge sind zerbrechlich?",
        ),
        "cuts": (
            "nimm alles weg, woran sich ein Kind schneiden könnte.",
            "welche Gegenstände sind zu scharf für ein kleines Kind?",
            "zeig mir alle scharfen Gegenstände.",
            "~räum alles Scharfe außer Reichweite der Kinder.",
        ),
    }
    chain_words = ChainWords(
        places=(
            "oben links",
            "oben",
            "oben rechts",
            "links",
            "Mitte",
            "rechts",
            "unten links",
            "unten",
            "unten rechts",
        ),
        thing="{n} {name} {place}",
        anchor="Bezug: {ids}",
        among="unter: {ids}",
        order="der Reihe nach: {ids}",
        yes="ja: {ids}",
        no="nein",
        region="{n}: Zeilen {rows}, Spalten {columns}",
        no_region="keine",
        fits="{named} ist {what}.",
        fit="{named} sind {what}.",
        nothing="Nicht da: {what}.",
    )

    def noun(self, kind: str) -> str:
        return NOUNS[kind][0][2:].partition("|")[0]

    def name(self, thing: ObjectView) -> str:
        gender, noun = _read(NOUNS[thing.kind][0], False)
        words = [COLORS[thing.color]]
        if thing.pattern != "plain":
            words.insert(0, PATTERNS[thing.pattern][0])
        ending = {"m": "er", "f": "e", "n": "es"}[gender]
        return " ".join((*(_inflect(word, ending) for word in words), noun))

    def described(
        self, what: Description, case: str, plural: bool = False, before: str = "", article: str | None = None
    ) -> tuple[str, str]:
        """A description as a noun phrase with its article, and its gender ("p": plural).

        Args:
            before: an adjective's stem that comes first: "dritt".
            article: replaces the definite one, before weak endings: "alle".
        """
        table = NOUNS[what.kind] if what.kind else CATEGORY_NOUNS[what.category] if what.category else THING
        gender, noun = _read(self.pick_once(table), plural)
        ending = "e" if (case in ("nom", "acc") and gender in "fn") or (case == "nom" and gender == "m") else "en"
        stems = [before] if before else []
        tail = ""
        if what.pattern:
            stems.append(self.pick(PATTERNS[what.pattern]))
        if what.color:
            handle = what.kind in HANDLED and what.color != "silver"
            if handle and self.pick(("with", "plain")) == "with":
                tail += f" mit dem {_inflect(COLORS[what.color], 'en')} Griff"
            else:
                stems.append(COLORS[what.color])
        if what.material and not noun.startswith("Holz"):
            made = self.pick(MATERIALS[what.material])
            if made.startswith("aus"):
                tail += f" {made}"
            else:
                stems.append(made)
        is_, pronoun = ("sind" if gender == "p" else "ist"), RELATIVE[gender]
        if what.not_color:
            tail += f", {pronoun} nicht {COLORS[what.not_color].removesuffix('=')} {is_},"
        if what.not_kind:
            other, noun_ = _read(NOUNS[what.not_kind][0], False)
            tail += f", {pronoun} {'keine' if other == 'f' else 'kein'} {noun_} {is_},"
        if case == "dat" and gender == "p":
            head, *of_what = noun.split(" ")
            noun = " ".join((head if head[-1] in "ns" else head + "n", *of_what))
        words = (
            article if article is not None else ARTICLES[case][gender],
            *(_inflect(s, ending) for s in stems),
            noun,
        )
        return " ".join(w for w in words if w) + tail, gender

    def useful(self, what: Description, case: str) -> Phrase:
        """`case`: "nom" or "acc"."""
        purpose, clause = self._use(what)
        text = "etwas " + purpose if self.pick(("zum", "womit")) == "zum" else f"etwas, {clause},"
        if what.not_color:
            text = text.rstrip(",") + f", aber nichts, was {COLORS[what.not_color].removesuffix('=')} ist,"
        if what.not_kind:
            gender, noun = _read(NOUNS[what.not_kind][0], False)
            no = "keine" if gender == "f" else "keinen" if (gender, case) == ("m", "acc") else "kein"
            text = text.rstrip(",") + f", aber {no} {noun},"
        return Phrase(text)

    def _use(self, what: Description) -> tuple[str, str]:
        pairs = dict(USES[what.use])
        if self.is_training:
            pairs |= TRAINING_USES.get(what.use, ())
        purpose = self.pick(tuple(pairs))
        return purpose, pairs.get(purpose) or pairs["~" + purpose]

    def refer(self, query: Query, case: str = "") -> Phrase:
        case = case or "nom"
        match query:
            case Only(what):
                if what.use:
                    return self.useful(what, case)
                if what.hazard:
                    return Phrase(f"das, was {self.pick(HAZARDS[what.hazard])},")
                text, gender = self.described(what, case)
                return Phrase(text, gender == "p")
            case Every(what):
                if what.hazard:
                    return Phrase(f"alles, was {self.pick(HAZARDS[what.hazard])},")
                together = TOGETHER.get(what.category or "") if what == Description(category=what.category) else None
                if together and self.pick(("all", "each")) == "all":
                    return Phrase(self.pick(together))
                articles = ["alle"]
                if self.count == 2 and what.kind:
                    articles += ["beide", "die beiden"]
                return Phrase(self.described(what, case, True, article=self.pick(articles))[0], True)
            case Except(anchor):
                if self.pick(("außer", "bis auf")) == "außer":
                    return Phrase(f"alles außer {self.known(anchor, 'dat')}")
                return Phrase(f"alles bis auf {self.known(anchor, 'acc')}")
            case Ordinal(what, "front", n):
                text, gender = self.described(what, case)
                nearest = "am nächsten" if n == 1 else f"am {ORDINALS[n - 1]}nächsten"
                return Phrase(f"{text}, {RELATIVE[gender]} " + self.pick(("mir", "der Kamera")) + f" {nearest} ist,")
            case Ordinal(what, side, n):
                direction = {"left": "links", "right": "rechts"}[side]
                if n == 1 and self.pick(("most", "first")) == "most":
                    text, gender = self.described(what, case, before=f"am weitesten {direction} liegend")
                else:
                    text, gender = self.described(what, case, before=ORDINALS[n - 1])
                    text += " " + self.pick(("von {}", "von {} aus gezählt", "~von {} her gezählt")).format(direction)
                return Phrase(text, gender == "p")
            case Extreme(what, measure):
                text, gender = self.described(what, case, before=self.pick(SUPERLATIVES[measure]))
                return Phrase(text, gender == "p")
            case Beside() | NextTo() | Between():
                place = self.place(query)
                if query.what.use:
                    useful = self.useful(query.what, case).text
                    joined = f"{useful[:-1]} und das" if useful.endswith(",") else f"{useful}, das"
                    return Phrase(f"{joined} {place} liegt,")
                text, gender = self.described(query.what, case)
                return Phrase(f"{text} {place}", gender == "p")
            case NearestEdge():
                return Phrase("das, was der Tischkante am nächsten ist,")

    def known(self, query: Query, case: str) -> str:
        """A thing that tells where another one is."""
        if isinstance(query, Only) and query.what.use:
            return f"{'dem' if case == 'dat' else 'das'}, {self._use(query.what)[1]},"
        return self.refer(query, case).text

    def place(self, query: Beside | NextTo | Between) -> str:
        if isinstance(query, Between):
            return f"zwischen {self.known(query.first, 'dat')} und {self.known(query.second, 'dat')}"
        near = self.pick(NEAR)
        before = near if isinstance(query, NextTo) else self.pick(SIDES[query.side])
        return f"{before} {self.known(query.anchor, 'dat')}"

    def finish_phrase(self, text: str) -> str:
        """Without commas before the end or other punctuation; "von dem" becomes "vom" except before a clause."""
        text = re.sub(r",(?=\s*([.,?!:]|$))", "", text)
        text = re.sub(r"\bvon dem (?=\S)", "vom ", text)
        return re.sub(r"\bbei dem (?=\S)", "beim ", text)

    def finish(self, text: str) -> str:
        return super().finish(self.finish_phrase(text))


def _read(entry: str, plural: bool) -> tuple[str, str]:
    """Gender ("p": plural) and noun of an entry."""
    singular, _, several = entry[2:].partition("|")
    return ("p", several) if plural else (entry[0], singular)


def _inflect(stem: str, ending: str) -> str:
    if stem.endswith("="):
        return stem[:-1]
    return stem + ending
