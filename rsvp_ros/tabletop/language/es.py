"""Spanish."""

from __future__ import annotations

import re
from typing import ClassVar

from rsvp_ros.tabletop.descriptions import HANDLED, Description
from rsvp_ros.tabletop.language.grammar import ChainWords, Grammar, Phrase
from rsvp_ros.tabletop.language.training_es import PARAPHRASES
from rsvp_ros.tabletop.queries import Beside, Between, Every, Except, Extreme, NearestEdge, NextTo, Only, Ordinal, Query
from rsvp_ros.tabletop.view import ObjectView

# Gender, singular|plural; plural only where there is no singular
NOUNS = {
    "mug": ("f taza|tazas", "~m tazón de café|tazones de café"),
    "cup": (
        "m vaso de papel|vasos de papel",
        "m vaso de cartón|vasos de cartón",
        "~m vaso desechable|vasos desechables",
    ),
    "bottle": ("f botella|botellas", "f botella de plástico|botellas de plástico"),
    "bowl": ("m cuenco|cuencos", "m bol|boles"),
    "plate": ("m plato|platos",),
    "teapot": ("f tetera|teteras",),
    "pan": ("f sartén|sartenes",),
    "knife": ("m cuchillo|cuchillos", "~m cuchillo de cocina|cuchillos de cocina"),
    "fork": ("m tenedor|tenedores",),
    "spoon": ("f cuchara|cucharas",),
    "scissors": ("f |tijeras",),
    "hammer": ("m martillo|martillos",),
    "screwdriver": ("m destornillador|destornilladores", "~m desarmador|desarmadores"),
    "spanner": ("f llave fija|llaves fijas", "f llave de tuercas|llaves de tuercas"),
    "tape": (
        "f cinta adhesiva|cintas adhesivas",
        "m rollo de cinta adhesiva|rollos de cinta adhesiva",
        "~m celo|rollos de celo",
    ),
    "book": ("m libro|libros",),
    "pen": ("m bolígrafo|bolígrafos", "~m boli|bolis"),
    "phone": ("m móvil|móviles", "m teléfono|teléfonos", "m teléfono móvil|teléfonos móviles", "~m celular|celulares"),
    "remote": (
        "m mando a distancia|mandos a distancia",
        "m control remoto|controles remotos",
        "~m mando de la tele|mandos de la tele",
    ),
    "battery": ("f pila|pilas", "~f batería|baterías"),
    # A spanner is a "llave" too
    "key": ("f llave de puerta|llaves de puerta",),
    "banana": ("m plátano|plátanos", "f banana|bananas"),
    "apple": ("f manzana|manzanas",),
    "orange": ("f naranja|naranjas",),
    "pear": ("f pera|peras",),
    "lemon": ("m limón|limones",),
    "carrot": ("f zanahoria|zanahorias",),
    "can": ("f lata|latas", "~f lata metálica|latas metálicas"),
    "box": ("f caja|cajas", "f caja de cartón|cajas de cartón"),
    "candle": ("f vela|velas",),
    "sponge": ("f esponja|esponjas", "~m estropajo|estropajos"),
    "ball": ("f pelota|pelotas", "f pelota de goma|pelotas de goma", "~m balón|balones"),
    "cube": ("m cubo de madera|cubos de madera", "m bloque de madera|bloques de madera"),
}
CATEGORY_NOUNS = {
    "fruit": ("f fruta|frutas", "f pieza de fruta|piezas de fruta"),
    "cutlery": ("m cubierto|cubiertos",),
    "tool": ("f herramienta|herramientas",),
    "crockery": ("f pieza de vajilla|piezas de vajilla",),
    "electronics": (
        "m aparato electrónico|aparatos electrónicos",
        "~m dispositivo electrónico|dispositivos electrónicos",
    ),
    "food": ("m alimento|alimentos", "f cosa de comer|cosas de comer"),
}
THING = ("m objeto|objetos", "f cosa|cosas")
# Masculine, feminine, and their plurals
COLORS = {
    "red": "rojo roja rojos rojas",
    "orange": "naranja naranja naranjas naranjas",
    "yellow": "amarillo amarilla amarillos amarillas",
    "green": "verde verde verdes verdes",
    "blue": "azul azul azules azules",
    "purple": "morado morada morados moradas",
    "pink": "rosa rosa rosas rosas",
    "brown": "marrón marrón marrones marrones",
    "white": "blanco blanca blancos blancas",
    "black": "negro negra negros negras",
    "gray": "gris gris grises grises",
    "silver": "plateado plateada plateados plateadas",
}
PATTERNS = {
    "striped": ("a rayas", "de rayas", "~con rayas"),
    "dotted": ("de lunares", "con lunares", "~de puntos"),
    "checked": ("a cuadros", "de cuadros"),
}
MATERIALS = {"wood": ("de madera",), "metal": ("de metal", "~metálico"), "ceramic": ("de cerámica",)}
ORDINALS = {
    "m": ("primer", "segundo", "tercer", "cuarto", "quinto", "sexto"),
    "f": ("primera", "segunda", "tercera", "cuarta", "quinta", "sexta"),
}
USES = {
    "cut": ("cortar la cuerda", "cortar este cordel", "~partir el hilo en dos"),
    "drink": ("beber un café", "tomarme un té", "~beber una infusión"),
    "pour": ("llenar un vaso", "servir una bebida en los vasos"),
    "eat_soup": ("tomar la sopa", "remover el café", "~comerme un yogur"),
    "spear": ("pinchar un trozo de carne en la mesa", "enrollar los espaguetis"),
    "drive_nail": ("clavar un clavo en la pared", "clavar clavos", "~dar golpes a un clavo"),
    "turn_screw": ("apretar un tornillo", "aflojar un tornillo", "~atornillar una bisagra"),
    "loosen_nut": ("aflojar una tuerca", "apretar una tuerca"),
    "write": ("escribir una nota", "firmar el contrato", "~apuntar una dirección"),
    "read": ("leer un rato", "leer en la cama", "~leer en el tren"),
    "call": ("llamar a mi madre", "hacer una llamada", "~llamar al médico"),
    "switch_tv": ("encender la tele", "cambiar de canal", "~bajar el volumen de la tele"),
    "snack": ("picar entre horas", "una merienda sana"),
    "power": ("que vuelva a funcionar el reloj de pared", "dar corriente a la linterna"),
    "wipe": ("limpiar la mesa", "fregar los platos", "~frotar el fregadero"),
    "throw": ("jugar a lanzar y atrapar", "jugar con el perro a tirar y traer"),
    "light": ("alumbrar la habitación cuando se va la luz", "tener una luz acogedora"),
    "stick": ("pegar dos hojas de papel", "cerrar un paquete"),
    "unlock": ("abrir la cerradura", "abrir la puerta cerrada"),
    "serve_soup": ("servir la sopa", "tomar cereales con leche"),
    "fry": ("freír un huevo", "hacer tortitas", "~hacer una tortilla"),
    "make_tea": ("preparar té para todos", "hacer té para las visitas"),
}
HAZARDS = {
    "rolls": ("podría caerse rodando de la mesa", "podría salir rodando"),
    "breaks": ("se rompería si se cayera", "se haría añicos al caer"),
    "cuts": ("podría cortar a un niño", "es demasiado afilado para un niño"),
}
SIDES = {
    "left": ("a la izquierda de", "~en el lado izquierdo de"),
    "right": ("a la derecha de", "~en el lado derecho de"),
    "front": ("delante de", "~enfrente de"),
    "behind": ("detrás de",),
}
NEAR = ("al lado de", "junto a", "justo al lado de", "~muy cerca de")
SUPERLATIVES = {
    "largest": ("más grande", "~de mayor tamaño"),
    "smallest": ("más pequeño", "~de menor tamaño"),
    "longest": ("más largo",),
    "shortest": ("más corto",),
    "tallest": ("más alto",),
}


class Spanish(Grammar):
    language = "es"
    PARAPHRASES = PARAPHRASES
    GIVE = (
        "dame {x}.",
        "por favor, pásame {x}.",
        "¿me puedes traer {x}?",
        "¿podrías darme {x}, por favor?",
        "necesito {x}.",
        "quiero {x}.",
        "estoy buscando {x}.",
        "tráeme {x}.",
        "coge {x}, por favor.",
        "alcánzame {x}.",
        "~¿te importaría pasarme {x}?",
        "~me vendría bien {x}.",
        "~haz el favor de acercarme {x}.",
    )
    WHERE = (
        "¿dónde [está|están] {x:the}?",
        "enséñame {x:the}.",
        "señala {x:the}.",
        "busca {x:the}.",
        "marca {x:the} en la imagen.",
        "¿ves {x:the}?",
        "~localiza {x:the}.",
        "~¿en qué sitio [está|están] {x:the}?",
    )
    ANY = ("¿hay {x}?", "¿ves {x}?", "búscame {x}.", "¿puedes encontrar {x}?", "~¿tienes {x}?")
    PLACE = (
        "¿qué hay {place}?",
        "¿qué ves {place}?",
        "¿qué objeto está {place}?",
        "enséñame lo que hay {place}.",
        "dame lo que está {place}.",
        "coge lo que hay {place}, por favor.",
        "~dime qué se encuentra {place}.",
        "~¿qué se ve {place}?",
    )
    ALL = (
        "dame {x}.",
        "coge {x}.",
        "enséñame {x}.",
        "busca {x}.",
        "¿puedes recoger {x}?",
        "por favor, pon {x} en la cesta.",
        "¿dónde [está|están] {x}?",
        "necesito {x}.",
        "marca {x} en la imagen.",
        "~reúne {x}.",
        "~¿te importaría retirar {x}?",
    )
    NEEDS: ClassVar = {
        "cut": (
            "tengo que cortar esta cuerda.",
            "este cordel es demasiado largo, quiero acortarlo.",
            "¿con qué puedo cortar este hilo?",
            "~hay que partir la cuerda en dos.",
        ),
        "drink": ("quiero tomarme un café. ¿En qué lo bebo?", "¿en qué puedo beberme el té?"),
        "pour": ("¿con qué puedo servir la bebida?", "¿desde dónde echo la bebida en los vasos?"),
        "eat_soup": (
            "¿con qué me tomo la sopa?",
            "tengo que remover el café.",
            "~la sopa está lista, ¿con qué me la como?",
        ),
        "spear": ("¿con qué enrollo los espaguetis?", "voy a comer espaguetis. ¿Con qué los enrollo?"),
        "drive_nail": (
            "tengo que clavar un clavo en la pared.",
            "este clavo sobresale, quiero hundirlo.",
            "voy a colgar un cuadro y ya tengo el clavo. ¿Qué más me hace falta?",
            "~hay que meter el clavo en la tabla.",
        ),
        "turn_screw": (
            "este tornillo está flojo.",
            "tengo que apretar un tornillo.",
            "~quiero atornillar la estantería.",
        ),
        "loosen_nut": (
            "esta tuerca está atascada.",
            "tengo que apretar una tuerca.",
            "hay que quitar esta tuerca hexagonal.",
        ),
        "write": (
            "quiero apuntar un número de teléfono.",
            "tengo que firmar este formulario.",
            "~me gustaría anotar una cosa.",
        ),
        "read": (
            "me aburro y me gustaría leer.",
            "quiero leerles un cuento a los niños.",
            "~me apetece una buena novela.",
        ),
        "call": ("tengo que llamar a mi madre.", "quiero llamar al médico.", "~necesito hacer una llamada."),
        "switch_tv": (
            "quiero ver la televisión.",
            "la tele está demasiado alta.",
            "cambia de canal, por favor.",
            "~no me gusta este programa de la tele.",
        ),
        "snack": ("me apetece comer algo dulce y sano.", "¿qué puedo picar que sea sano?"),
        "power": (
            "el reloj se ha parado, no tiene corriente.",
            "mi linterna se ha quedado sin energía.",
            "~el coche de juguete ya no anda, se ha quedado sin energía.",
        ),
        "wipe": (
            "tengo las manos sucias.",
            "se me ha derramado la leche.",
            "la mesa está pegajosa.",
            "~hay que fregar los platos.",
        ),
        "throw": ("el perro quiere jugar.", "vamos a jugar a lanzar y atrapar.", "~los niños quieren jugar fuera."),
        "light": (
            "se ha ido la luz y está oscuro.",
            "me gustaría una luz romántica para la cena.",
            "~es su cumpleaños, ¿qué encendemos?",
        ),
        "stick": (
            "se ha roto la página, quiero arreglarla.",
            "tengo que cerrar este paquete.",
            "~¿con qué fijo el póster a la pared?",
        ),
        "unlock": (
            "la puerta está cerrada con llave y quiero entrar.",
            "no puedo entrar en casa.",
            "~tengo que abrir la cerradura.",
        ),
        "serve_soup": ("¿en qué puedo tomar mis cereales?", "la sopa está caliente, ¿en qué la sirvo?"),
        "fry": ("quiero freír un huevo.", "vamos a hacer tortitas.", "~me apetecen huevos fritos."),
        "make_tea": ("quiero preparar té para cuatro personas.", "las visitas quieren té. ¿En qué lo preparo?"),
    }
    DANGERS: ClassVar = {
        "rolls": (
            "¿qué podría caerse rodando de la mesa?",
            "¿qué objeto podría salir rodando?",
            "la mesa se inclina: ¿qué saldría rodando?",
            "cuidado, algo podría caerse rodando de la mesa.",
            "sujeta lo que podría salir rodando.",
            "¿hay algo que pueda caerse rodando?",
            "enséñame lo que podría rodar.",
            "quita lo que podría caerse rodando de la mesa.",
            "~¿qué no se quedaría quieto si alguien golpea la mesa?",
        ),
        "breaks": (
            "¿qué se rompería si se cayera?",
            "¿qué objeto se haría añicos en el suelo?",
            "¿hay algo que se rompa si se cae?",
            "guarda lo que se rompería si se cayera.",
            "ten cuidado con lo que podría romperse.",
            "enséñame lo que se rompería en una caída.",
            "¿qué no se me puede caer porque se haría añicos?",
            "~¿qué hay aquí que sea frágil?",
        ),
        "cuts": (
            "¿con qué podría cortarse un niño?",
            "viene un niño pequeño: quita lo que corta.",
            "¿qué es demasiado afilado para un niño pequeño?",
            "¿hay algo afilado que pueda hacer daño a un niño?",
            "guarda el objeto con el que podría cortarse un niño.",
            "enséñame el objeto afilado.",
            "¿con qué no deben jugar los niños porque corta?",
            "~¿qué podría causar un corte en el dedo?",
        ),
        "edge": (
            "¿qué está más cerca del borde de la mesa?",
            "¿qué objeto es el más cercano al borde de la mesa?",
            "¿qué está justo al borde de la mesa?",
            "mueve lo que está más cerca del borde.",
            "enséñame el objeto más cercano al borde de la mesa.",
            "hay algo demasiado cerca del borde. Apártalo, por favor.",
            "empuja hacia dentro lo que está más cerca del borde de la mesa.",
            "~retira lo que está más cerca del borde de la mesa.",
        ),
    }
    ALL_DANGERS: ClassVar = {
        "rolls": (
            "enséñame todo lo que podría caerse rodando de la mesa.",
            "¿qué cosas podrían salir rodando?",
            "busca todo lo que podría rodar.",
            "~aparta todas las cosas que rodarían.",
        ),
        "breaks": (
            "enséñame todo lo que se rompería si se cayera.",
            "¿qué cosas se harían añicos en el suelo?",
            "guarda todo lo que se rompería al caer.",
            "~¿qué objetos son frágiles?",
        ),
        "cuts": (
            "quita todo aquello con lo que podría cortarse un niño.",
            "¿qué objetos son demasiado afilados para un niño pequeño?",
            "enséñame todas las cosas afiladas.",
            "~recoge todo lo que corta.",
        ),
    }
    chain_words = ChainWords(
        places=(
            "arriba a la izquierda",
            "arriba",
            "arriba a la derecha",
            "izquierda",
            "centro",
            "derecha",
            "abajo a la izquierda",
            "abajo",
            "abajo a la derecha",
        ),
        thing="{n} {name} {place}",
        anchor="referencia: {ids}",
        among="entre: {ids}",
        order="en orden: {ids}",
        yes="sí: {ids}",
        no="no",
        region="{n}: filas {rows}, columnas {columns}",
        no_region="ninguna",
        fits="{named} es {what}.",
        fit="{named} son {what}.",
        nothing="No está: {what}.",
    )

    def noun(self, kind: str) -> str:
        singular, _, plural = NOUNS[kind][0][2:].partition("|")
        return singular or plural

    def is_plural_only(self, kind: str) -> bool:
        return NOUNS[kind][0][2] == "|"

    def name(self, thing: ObjectView) -> str:
        gender, noun, plural = _read(NOUNS[thing.kind][0], False)
        pattern = "" if thing.pattern == "plain" else " " + PATTERNS[thing.pattern][0]
        return f"{noun} {_color(thing.color, gender, plural)}{pattern}"

    def head(self, what: Description, plural: bool) -> tuple[str, str, str, bool]:
        """Gender, noun, what follows it, whether it is plural."""
        table = NOUNS[what.kind] if what.kind else CATEGORY_NOUNS[what.category] if what.category else THING
        gender, noun, plural = _read(self.pick_once(table), plural)
        tail = ""
        if what.material and " de " not in noun:
            tail += " " + self.pick(MATERIALS[what.material]).replace("metálico", _agree("metálico", gender, plural))
        if what.color:
            if what.kind in HANDLED and what.color != "silver" and self.pick(("with", "plain")) == "with":
                tail += f" con mango {_color(what.color, 'm', False)}"
            else:
                tail += " " + _color(what.color, gender, plural)
        if what.pattern:
            tail += " " + self.pick(PATTERNS[what.pattern])
        if what.not_color:
            tail += self.pick((" que no [es|son] {}", " que no [sea|sean] {}")).format(
                _color(what.not_color, gender, plural)
            )
        if what.not_kind:
            other, one, several = _read(NOUNS[what.not_kind][0], False)
            article = "" if several else "un " if other == "m" else "una "
            tail += self.pick((" que no [es|son] {}", " que no [sea|sean] {}")).format(article + one)
        return gender, noun, re.sub(r"\[([^|]*)\|([^\]]*)\]", lambda m: m[2 if plural else 1], tail), plural

    def described(self, what: Description, case: str) -> Phrase:
        if what.use:
            return self.useful(what)
        if what.hazard:
            return Phrase("lo que " + self.pick(HAZARDS[what.hazard]))
        gender, noun, tail, plural = self.head(what, False)
        article = _article(gender, plural)
        if case == "the":  # what is known to be there takes no subjunctive ("que no sea")
            tail = tail.replace(" que no sean ", " que no son ").replace(" que no sea ", " que no es ")
        if " que no sea" in tail and not plural:
            article = "un" if gender == "m" else "una"
        return Phrase(f"{article} {noun}{tail}", plural)

    def useful(self, what: Description) -> Phrase:
        use = self.pick(USES[what.use])
        text = self.pick(("algo para {}", "un objeto que sirva para {}", "~alguna cosa que valga para {}")).format(use)
        if what.not_color:
            text += f", pero que no sea {_color(what.not_color, 'f' if text.startswith('alguna') else 'm', False)}"
        if what.not_kind:
            gender, noun, plural = _read(NOUNS[what.not_kind][0], False)
            text += ", pero no " + _article(gender, plural) + " " + noun
        return Phrase(text)

    def refer(self, query: Query, case: str = "") -> Phrase:
        match query:
            case Only(what):
                if what.use and case == "known":
                    return Phrase(
                        self.pick(("lo que sirve para {}", "el objeto para {}")).format(self.pick(USES[what.use]))
                    )
                return self.described(what, case)
            case Every(what):
                if what.hazard:
                    return Phrase("todo lo que " + self.pick(HAZARDS[what.hazard]))
                gender, noun, tail, _ = self.head(what, True)
                articles = ["todos los" if gender == "m" else "todas las"]
                if self.count == 2 and what.kind:
                    articles.append("los dos" if gender == "m" else "las dos")
                return Phrase(f"{self.pick(articles)} {noun}{tail}", True)
            case Except(anchor):
                return Phrase(
                    self.pick(("todo menos {}", "todo excepto {}", "~todo salvo {}")).format(
                        self.refer(anchor, "known").text
                    )
                )
            case Ordinal(what, side, n):
                gender, noun, tail, plural = self.head(what, False)
                article = _article(gender, plural)
                if side == "front":
                    second = "" if n == 1 else ORDINALS[gender][n - 1] + ("s " if plural else " ")
                    near = _agree("cercano", gender, plural)
                    end = self.pick((f"más {near} a mí", f"más {near} a la cámara"))
                    return Phrase(f"{article} {second}{noun}{tail} {end}", plural)
                direction = {"left": "izquierda", "right": "derecha"}[side]
                if n == 1 and self.pick(("most", "first")) == "most":
                    stands = "que están" if plural else "que está"
                    return Phrase(f"{article} {noun}{tail} {stands} más a la {direction}", plural)
                counted = self.pick(("empezando por la {}", "contando desde la {}", "~desde la {}")).format(direction)
                ordinal = ORDINALS[gender][n - 1]
                if plural:
                    ordinal += "s"
                return Phrase(f"{article} {ordinal} {noun}{tail} {counted}", plural)
            case Extreme(what, measure):
                gender, noun, tail, plural = self.head(what, False)
                most = _agree(self.pick(SUPERLATIVES[measure]), gender, plural)
                return Phrase(f"{_article(gender, plural)} {noun}{tail} {most}", plural)
            case Beside() | NextTo() | Between():
                place = self.place(query)
                if query.what.use:
                    return Phrase(f"{self.useful(query.what).text} que esté {place}")
                gender, noun, tail, plural = self.head(query.what, False)
                stands = "que están" if plural else "que está"
                return Phrase(f"{_article(gender, plural)} {noun}{tail} {stands} {place}", plural)
            case NearestEdge():
                return Phrase("lo más cercano al borde de la mesa")

    def place(self, query: Beside | NextTo | Between) -> str:
        if isinstance(query, Between):
            return f"entre {self.refer(query.first, 'known').text} y {self.refer(query.second, 'known').text}"
        near = self.pick(NEAR)
        before = near if isinstance(query, NextTo) else self.pick(SIDES[query.side])
        return f"{before} {self.refer(query.anchor, 'known').text}"

    def finish_phrase(self, text: str) -> str:
        text = re.sub(r"\bde el ", "del ", text)
        return re.sub(r"\ba el ", "al ", text)

    def finish(self, text: str) -> str:
        return super().finish(self.finish_phrase(text))


def _read(entry: str, plural: bool) -> tuple[str, str, bool]:
    """Gender, noun and number of an entry."""
    singular, _, several = entry[2:].partition("|")
    return (entry[0], several, True) if plural or not singular else (entry[0], singular, False)


def _article(gender: str, plural: bool) -> str:
    return {"m": ("el", "los"), "f": ("la", "las")}[gender][plural]


def _color(color: str, gender: str, plural: bool) -> str:
    return COLORS[color].split()[(gender == "f") + 2 * plural]


def _agree(adjective: str, gender: str, plural: bool) -> str:
    """An adjective in -o, inflected for gender and number; "grande" is inflected for number only."""
    if adjective.startswith("de "):
        return adjective
    if gender == "f" and adjective.endswith("o"):
        adjective = adjective[:-1] + "a"
    return adjective + "s" * plural
